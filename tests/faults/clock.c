/* Shows a clock that is so many seconds ahead as CLOCK_AHEAD says: loaded with LD_PRELOAD. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = ((int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime"))(clock, now);
    const char *ahead = getenv("CLOCK_AHEAD");
    if (!failed && clock == CLOCK_REALTIME && ahead) now->tv_sec += atol(ahead);
    return failed;
}
