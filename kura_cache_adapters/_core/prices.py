"""What a provider asks for a million tokens, where the package genai-prices is installed and knows it."""

from __future__ import annotations

from importlib.util import find_spec


def price_of(model_name: str, address: object) -> float | None:
    """Return the price of a million tokens of input at an address, in US dollars; None if it is not known.

    Nothing is asked: the prices are those of the installed release.
    """
    if not isinstance(address, str) or find_spec("genai_prices") is None:
        return None
    import genai_prices  # noqa: PLC0415 - an extra, and large

    million = genai_prices.Usage(input_tokens=1_000_000)
    try:
        price = genai_prices.calc_price(million, model_name, provider_api_url=address)
    except LookupError:
        return None
    return float(price.total_price)
