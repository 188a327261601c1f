"""What is inside a torch model: its modules with their configurations, its weights, its tokenizer."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from inspect import getfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity.origin import class_path, homes_of, is_installed, own_class
from kura_cache_adapters._identity.watch import plain
from kura_cache_adapters.errors import IdentityError, require

if TYPE_CHECKING:
    from collections.abc import Iterator


def unreadable(why: str) -> IdentityError:
    """Return the error for a local model of which something that decides cannot be read."""
    cure = 'Name it yourself: model_name="my-model-v1" and identity={...}, with whatever changes its vectors.'
    return IdentityError("The local model", why, cure)


# What a module's configuration says when it says nothing: releases differ in whether they write it.
_DEFAULTS: dict[str, Any] = {
    "do_lower_case": False,
    "include_prompt": True,
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
    "processing_kwargs": {},
    "_query_expansion": False,
    "transformer_task": "feature-extraction",
    "unpad_inputs": None,
}
_POOLINGS = {  # as older releases write them, in the order in which they put them together
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}
_FACTS = ("do_lower_case",)  # of a Transformer, which its configuration does not tell in every release
_ROUTERS = frozenset({"Router", "Asym"})
_TASKS = ("query_length", "document_length", "_query_expansion", "processing_kwargs")

# What a transformers configuration says that the weights tell, or that changes no vector of a text.
_SILENT = frozenset(
    {
        *("_name_or_path", "transformers_version", "architectures", "auto_map", "task_specific_params"),
        *(
            "torch_dtype",
            "dtype",
            "torchscript",
            "use_cache",
            "tie_word_embeddings",
            "gradient_checkpointing",
        ),
        *(
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "initializer_range",
            "initializer_factor",
        ),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "classifier_dropout"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "embedding_dropout"),
        *("dropout", "bos_token_id", "eos_token_id", "sep_token_id", "mask_token_id"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
    }
)
_FALSE = frozenset({"is_decoder", "add_cross_attention"})  # said by some releases only

# Where releases keep the transformers model inside its module.
_HOLDER = re.compile(r"^(\d+)\.(?:auto_model|model)(?:\.|$)")


def described(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Describe the modules inside a model, recursively, as every supported release would.

    Those of sentence-transformers and the configurations can be read, what is inside is digested.
    """
    if (own := own_class(model)) is not None:
        why = f"has code of your own in its class {own.__qualname__}, which may change"
        raise unreadable(why)
    outer: list[dict[str, Any]] = []
    inner: list[dict[str, Any]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        place = _HOLDER.sub(r"\1.", f"{name}").rstrip(".")
        _refuse_own(module, place)
        told = {} if module is model else _told(module)
        if told:
            readable = "config" in told or type(module).__module__.startswith("sentence_transformers.")
            (outer if readable else inner).append({"at": place, **told})
    digest = sha256(json.dumps(inner, sort_keys=True).encode()).hexdigest()
    return {"modules": outer, "inside": digest}


def _told(module: Any) -> dict[str, Any]:  # noqa: ANN401 - one line per origin
    home, name = type(module).__module__, type(module).__name__
    if home.startswith("sentence_transformers."):
        return {"class": name, **_settings_of(module)}
    if home.startswith("transformers_modules."):  # code that came with the model
        return {"class": name, "code": _digest_of_code(module), **_configuration(module)}
    if home.startswith("transformers."):
        # Inner classes are renamed by releases, their configuration is not; leaves are activations.
        leaf = not module._modules and not module._parameters  # noqa: SLF001
        return {"class": name} if leaf and not hasattr(module, "config") else _configuration(module)
    speaks = not module._modules or module._parameters  # noqa: SLF001
    if home.startswith("torch."):
        return {"class": name, **dict(plain(vars(module)))} if speaks and "Dropout" not in name else {}
    return {"class": f"{home}.{name}", **attributes_of(module)}


def _settings_of(module: Any) -> dict[str, Any]:  # noqa: ANN401 - of sentence-transformers
    """Return a module's configuration without what says nothing; poolings of all releases alike."""
    name, told = type(module).__name__, dict(module.get_config_dict())
    if name == "Pooling":
        told = _pooling(told)
    elif name == "Transformer":
        told |= {fact: getattr(module, fact) for fact in _FACTS}
        told |= {fact: getattr(module, fact, None) for fact in _TASKS}  # of newer releases
        told.pop("max_seq_length", None)  # told for the whole model
        if told.pop("module_output_name", None) not in {None, "token_embeddings"}:
            told["module_output_name"] = module.module_output_name
        if (backend := module.backend) != "torch":
            why = f"runs on {backend}, whose weights cannot be read"
            raise unreadable(why)
    else:
        told |= dict(plain(vars(module)))
    return {
        name: value
        for name, value in json.loads(json.dumps(told, default=written)).items()
        if value is not None and value != _DEFAULTS.get(name)
    }


def _pooling(told: dict[str, Any]) -> dict[str, Any]:
    """Write poolings as the newest releases do: older ones have a truth value for each mode."""
    now = told.get("pooling_mode")
    modes = [now] if isinstance(now, str) else list(now or ())
    modes += [mode for mode in _POOLINGS if told.get(f"pooling_mode_{mode}") is True]
    if not modes:
        why = f"says nothing of its pooling ({', '.join(told)}); this release is not known"
        raise unreadable(why)
    rest = {
        name: value
        for name, value in told.items()
        if not name.startswith("pooling_mode") and "dimension" not in name
    }
    return {"modes": [_POOLINGS.get(mode, mode) for mode in modes], **rest}


def _configuration(module: Any) -> dict[str, Any]:  # noqa: ANN401 - of transformers
    config = getattr(module, "config", None)
    own = getattr(module, "base_model_prefix", None) is not None  # inner modules hold it too
    if config is None or not own:
        return {}
    return {"config": _spoken(json.loads(json.dumps(config.to_diff_dict(), default=written)))}


def _spoken(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _spoken(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in _SILENT and value is not None and not (name in _FALSE and value is False)
    }


def attributes_of(module: Any) -> dict[str, Any]:  # noqa: ANN401 - of another package
    """Return what a module of another package holds; its modules and tensors are told elsewhere."""
    of_every_module = vars(require("torch.nn", extra="sentence-transformers").Module())
    own = {name: value for name, value in vars(module).items() if name not in of_every_module}
    return {
        name: json.loads(json.dumps(value, default=written, sort_keys=True)) for name, value in own.items()
    }


def written(value: Any) -> Any:  # noqa: ANN401 - one line per kind
    """Turn a value inside a module into JSON, or say that it cannot be read."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (Path, re.Pattern)) or type(value).__module__ == "torch":
        return str(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if callable(value) and is_installed(getattr(value, "__module__", None) or ""):
        return getattr(value, "__qualname__", class_path(value))
    if is_installed(type(value).__module__) and not callable(value):
        return {"class": class_path(value), **dict(plain(getattr(value, "__dict__", {})))}
    why = f"holds a {type(value).__name__}, of which nothing can be read"
    raise unreadable(why)


def _refuse_own(module: Any, place: str) -> None:  # noqa: ANN401
    """Refuse code of the user's own: nothing says when it changes."""
    kind = type(module)
    home = kind.__module__
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]  # noqa: SLF001
    patched = [value for name, value in vars(module).items() if callable(getattr(kind, name, None))]
    of_hooks = [getattr(code, "__module__", None) or "" for code in hooks]
    homes = [home, *of_hooks, *(name for code in (*hooks, *patched) for name in homes_of(code))]
    if own := [name for name in homes if not (is_installed(name) or name.startswith("transformers_modules"))]:
        why = f"has code of your own in {place!r} ({own[0] or 'a function'}), which may change"
        raise unreadable(why)


def routes(module: Any) -> bool:  # noqa: ANN401
    named = type(module).__name__ in _ROUTERS or type(module).__module__.startswith("transformers_modules.")
    return named or any(getattr(module, name, None) is not None for name in _TASKS[:2])


def tokenizer_of(model: Any) -> Any:  # noqa: ANN401
    """Return the tokenizer of the first module; of a router, of its first route."""
    return getattr(next(iter(model)), "tokenizer", None)


def routed(model: Any) -> list[Any]:  # noqa: ANN401
    """Return what reads texts on each of a router's routes; of any other model nothing."""
    first = next(iter(model))
    if type(first).__name__ not in _ROUTERS:
        return []
    inside = (module for route in first.sub_modules.values() for module in route)
    return [module for module in inside if getattr(module, "tokenizer", None) is not None]


def _digest_of_code(module: Any) -> str:  # noqa: ANN401
    """Digest the Python files that came with a model, of which one defines the module."""
    folder = Path(getfile(type(module))).parent
    total = sha256()
    for path in sorted(folder.glob("*.py")):
        total.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def digest_of_weights(model: Any) -> str:  # noqa: ANN401
    """Compute the SHA-256 over names, dtypes, shapes and bytes of all that a model's state holds."""
    total = sha256()
    named = ((_HOLDER.sub(r"\1.", name), value) for name, value in model.state_dict().items())
    for name, value in sorted(named, key=lambda item: item[0]):
        for head, body in _pieces(name, value):
            total.update(head.encode())
            total.update(body)
    return total.hexdigest()


def _pieces(name: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a tensor, or what has some
    torch = require("torch", extra="sentence-transformers")
    if isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from _pieces(f"{name}[{at}]", item)
    elif not isinstance(value, torch.Tensor):
        yield f"{name}\0{json.dumps(value, default=written)}\0", b""
    elif value.is_meta:
        why = f"has weights that are not in memory ({name})"
        raise unreadable(why)
    elif value.is_quantized:
        scheme = f"{value.qscheme()}"
        scales = (
            (value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis())
            if "channel" in scheme
            else (value.q_scale(), value.q_zero_point())
        )
        yield from _pieces(f"{name}\0{scheme}", [value.int_repr(), *scales])
    else:
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield f"{name}\0{value.dtype}\0{tuple(value.shape)}\0", flat.numpy().data


def is_torch(value: object) -> bool:
    """Tell whether a value is a tensor, a module or a dtype of torch."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(value).__mro__)


def content_of(value: Any) -> Any:  # noqa: ANN401 - a tensor, a module, a dtype
    """Describe what torch made by its content."""
    if hasattr(value, "state_dict"):
        return {**described(value), "weights": digest_of_weights(value)}
    total = sha256()
    for head, body in _pieces("", value):
        total.update(head.encode())
        total.update(body)
    return {"@torch": total.hexdigest()}
