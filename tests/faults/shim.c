/* Counts the system calls that change files, and strikes at the nth: loaded with LD_PRELOAD.

   Only regular files and directories count, so that pipes, sockets and terminals go on working.
   Nothing happens before arm() is called. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int armed, deadly, failure, lasting, halfway;
static long target;
static atomic_long seen;

/* Strike at call `at`: send the signal if there is one, then fail with the error if there is one;
   `forever`: fail from then on; `half`: a write that is struck has written half of its bytes. */
void arm(long at, int signal_number, int error_number, int forever, int half) {
    target = at, deadly = signal_number, failure = error_number, lasting = forever, halfway = half;
    atomic_store(&seen, 0);
    armed = 1;
}

/* Return how many calls there have been since arm(), and count no more. */
long disarm(void) {
    armed = 0;
    return atomic_load(&seen);
}

static int due(void) {
    if (!armed) return 0;
    long at = atomic_fetch_add(&seen, 1) + 1;
    return at == target || (lasting && at > target);
}

static int strike(void) {
    if (deadly) raise(deadly);
    errno = failure;
    return failure != 0;
}

static int is_file(int descriptor) {
    struct stat status;
    int before = errno;
    int file = fstat(descriptor, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode));
    errno = before;
    return file;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define GUARD(type, name, parameters, arguments, counts)       \
    type name parameters {                                     \
        if ((counts) && due() && strike()) return (type) - 1;  \
        return REAL(name) arguments;                           \
    }

#define GUARD_WRITE(name, parameters, arguments, half)         \
    ssize_t name parameters {                                  \
        if (is_file(fd) && due()) {                            \
            if (halfway) { ssize_t ignored = REAL(name) half; (void)ignored; } \
            if (strike()) return -1;                           \
        }                                                      \
        return REAL(name) arguments;                           \
    }

/* No strike here is a power cut: where there is one, nothing is flushed, which would only take time. */
#define GUARD_FLUSH(name)                                      \
    int name(int fd) {                                         \
        if (is_file(fd) && due() && strike()) return -1;       \
        return armed && target ? 0 : REAL(name)(fd);           \
    }

#define GUARD_OPEN(name, parameters, arguments, real)          \
    int name parameters {                                      \
        mode_t mode = 0;                                       \
        if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
            va_list rest;                                      \
            va_start(rest, flags);                             \
            mode = va_arg(rest, mode_t);                       \
            va_end(rest);                                      \
        }                                                      \
        if ((flags & (O_CREAT | O_TRUNC)) && due() && strike()) return -1; \
        return ((int(*) real)dlsym(RTLD_NEXT, #name)) arguments; \
    }

GUARD_OPEN(open, (const char *path, int flags, ...), (path, flags, mode), (const char *, int, mode_t))
GUARD_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), (const char *, int, mode_t))
GUARD_OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), (int, const char *, int, mode_t))
GUARD_OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), (int, const char *, int, mode_t))

GUARD_WRITE(write, (int fd, const void *bytes, size_t size), (fd, bytes, size), (fd, bytes, size / 2))
GUARD_WRITE(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), (fd, parts, count / 2))
GUARD_WRITE(pwrite, (int fd, const void *bytes, size_t size, off_t at), (fd, bytes, size, at), (fd, bytes, size / 2, at))
GUARD_WRITE(pwrite64, (int fd, const void *bytes, size_t size, off64_t at), (fd, bytes, size, at), (fd, bytes, size / 2, at))

GUARD_FLUSH(fsync)
GUARD_FLUSH(fdatasync)
GUARD(int, ftruncate, (int fd, off_t size), (fd, size), is_file(fd))
GUARD(int, ftruncate64, (int fd, off64_t size), (fd, size), is_file(fd))
GUARD(int, truncate, (const char *path, off_t size), (path, size), 1)
GUARD(int, flock, (int fd, int operation), (fd, operation), is_file(fd))
GUARD(int, fchmod, (int fd, mode_t mode), (fd, mode), is_file(fd))
GUARD(int, chmod, (const char *path, mode_t mode), (path, mode), 1)
GUARD(int, rename, (const char *from, const char *to), (from, to), 1)
GUARD(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), 1)
GUARD(int, renameat2, (int a, const char *from, int b, const char *to, unsigned how), (a, from, b, to, how), 1)
GUARD(int, link, (const char *from, const char *to), (from, to), 1)
GUARD(int, linkat, (int a, const char *from, int b, const char *to, int how), (a, from, b, to, how), 1)
GUARD(int, symlink, (const char *from, const char *to), (from, to), 1)
GUARD(int, unlink, (const char *path), (path), 1)
GUARD(int, unlinkat, (int at, const char *path, int how), (at, path, how), 1)
GUARD(int, rmdir, (const char *path), (path), 1)
GUARD(int, mkdir, (const char *path, mode_t mode), (path, mode), 1)
GUARD(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), 1)
