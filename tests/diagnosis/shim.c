/* What one machine does not have: a clock that is wrong, and a file system whose locks do not work.
 *
 * SHIM_SKEW: seconds that the wall clock is off; SHIM_FLOCK: the errno that every flock fails with, 0: it succeeds and
 * locks nothing, as on a file system that is mounted with local locks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    const char *skew = getenv("SHIM_SKEW");
    if (!failed && skew && clock == CLOCK_REALTIME)
        now->tv_sec += atol(skew);
    return failed;
}

int flock(int fd, int operation) {
    const char *code = getenv("SHIM_FLOCK");
    if (!code)
        return syscall(SYS_flock, fd, operation);
    errno = atoi(code);
    return errno ? -1 : 0;
}
