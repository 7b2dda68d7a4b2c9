/* Imitates storage behind a network, for whatever is read below one folder by a program that preloads this.
 *
 *     cc -O2 -shared -fPIC -o slowfs.so slowfs.c -ldl
 *     LD_PRELOAD=./slowfs.so SLOWFS_FOLDER=/data SLOWFS_US=300 cp -r /data /elsewhere
 *
 * SLOWFS_US is a round trip in microseconds. An open costs two (look-up and open); stat, access, opendir one; reading
 * through a descriptor one at its first byte and one at each further MiB. Only latency is imitated: bandwidth is that of
 * the page cache, and there is no reading ahead.
 *
 * Out of reach: mmap, stdio (fopen and what reads through it), io_uring, descriptors that are duplicated or inherited.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define DESCRIPTORS 65536
#define MIB_SHIFT 20
#define AT_ONCE (16L << MIB_SHIFT) /* of one call that copies inside the kernel, so that its latency is spread */

static long round_trip;    /* nanoseconds; 0: nothing is slow */
static const char *folder; /* without a slash at the end */
static size_t folder_length;
static _Atomic long done[DESCRIPTORS]; /* bytes read through a descriptor, and 1; 0: a descriptor of fast storage */

__attribute__((constructor)) static void begin(void)
{
    const char *us = getenv("SLOWFS_US");
    folder = getenv("SLOWFS_FOLDER");
    if (us && folder && *folder) {
        folder_length = strlen(folder);
        round_trip = atol(us) * 1000;
        prctl(PR_SET_TIMERSLACK, 1UL); /* 50 us late by default, which is much of 300 */
    }
}

static void travel(long times)
{
    if (times > 0 && round_trip) {
        long long all = (long long)times * round_trip;
        struct timespec rest = {all / 1000000000, all % 1000000000};
        while (nanosleep(&rest, &rest)) {
        }
    }
}

static int below(const char *path)
{
    return !strncmp(path, folder, folder_length) && (!path[folder_length] || path[folder_length] == '/');
}

/* Whether a path, relative to an open folder or to the current one, lies on slow storage. */
static int slow(int at, const char *path)
{
    if (!round_trip || !path || !*path)
        return 0;
    if (*path == '/')
        return below(path);
    if (at == AT_FDCWD) {
        char here[PATH_MAX];
        return getcwd(here, sizeof here) && below(here);
    }
    return at >= 0 && at < DESCRIPTORS && done[at];
}

static int opened(int handle, int is_slow)
{
    if (handle >= 0 && handle < DESCRIPTORS)
        done[handle] = is_slow;
    return handle;
}

/* After count bytes came through a descriptor. */
static ssize_t came(int handle, ssize_t count)
{
    if (count > 0 && round_trip && handle >= 0 && handle < DESCRIPTORS && done[handle]) {
        long before = atomic_fetch_add(&done[handle], count) - 1;
        travel(((before + count - 1) >> MIB_SHIFT) - (before ? (before - 1) >> MIB_SHIFT : -1));
    }
    return count;
}

/* The function of this name that would have been called. */
#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(name) MODE(flags) \
        int is_slow = slow(AT_FDCWD, path); \
        travel(2 * is_slow); \
        return opened(real(path, flags, mode), is_slow); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) \
    { \
        REAL(name) MODE(flags) \
        int is_slow = slow(at, path); \
        travel(2 * is_slow); \
        return opened(real(at, path, flags, mode), is_slow); \
    }
OPENAT(openat)
OPENAT(openat64)

/* What programs that were compiled with checks call instead. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int at, const char *path, int flags) { return openat(at, path, flags); }
int __openat64_2(int at, const char *path, int flags) { return openat64(at, path, flags); }

#define ONE_TRIP(type, name, parameters, at, path, ...) \
    type name parameters \
    { \
        REAL(name) \
        travel(slow(at, path)); \
        return real(__VA_ARGS__); \
    }
ONE_TRIP(int, stat, (const char *restrict p, struct stat *restrict s), AT_FDCWD, p, p, s)
ONE_TRIP(int, stat64, (const char *restrict p, struct stat64 *restrict s), AT_FDCWD, p, p, s)
ONE_TRIP(int, lstat, (const char *restrict p, struct stat *restrict s), AT_FDCWD, p, p, s)
ONE_TRIP(int, lstat64, (const char *restrict p, struct stat64 *restrict s), AT_FDCWD, p, p, s)
ONE_TRIP(int, fstatat, (int d, const char *restrict p, struct stat *restrict s, int f), d, p, d, p, s, f)
ONE_TRIP(int, fstatat64, (int d, const char *restrict p, struct stat64 *restrict s, int f), d, p, d, p, s, f)
ONE_TRIP(int, statx, (int d, const char *restrict p, int f, unsigned m, struct statx *restrict s), d, p, d, p, f, m, s)
ONE_TRIP(int, access, (const char *p, int m), AT_FDCWD, p, p, m)
ONE_TRIP(int, faccessat, (int d, const char *p, int m, int f), d, p, d, p, m, f)
ONE_TRIP(DIR *, opendir, (const char *p), AT_FDCWD, p, p)

#define READ(name, parameters, ...) \
    ssize_t name parameters \
    { \
        REAL(name) \
        return came(fd, real(__VA_ARGS__)); \
    }
READ(read, (int fd, void *b, size_t n), fd, b, n)
READ(pread, (int fd, void *b, size_t n, off_t o), fd, b, n, o)
READ(pread64, (int fd, void *b, size_t n, off64_t o), fd, b, n, o)
READ(readv, (int fd, const struct iovec *v, int n), fd, v, n)
READ(preadv, (int fd, const struct iovec *v, int n, off_t o), fd, v, n, o)
READ(preadv64, (int fd, const struct iovec *v, int n, off64_t o), fd, v, n, o)
READ(preadv2, (int fd, const struct iovec *v, int n, off_t o, int f), fd, v, n, o, f)
READ(preadv64v2, (int fd, const struct iovec *v, int n, off64_t o, int f), fd, v, n, o, f)

static size_t a_part(size_t count) { return count > AT_ONCE ? AT_ONCE : count; }

READ(copy_file_range, (int fd, off64_t *a, int to, off64_t *b, size_t n, unsigned f), fd, a, to, b, a_part(n), f)
READ(sendfile, (int to, int fd, off_t *o, size_t n), to, fd, o, a_part(n))
READ(sendfile64, (int to, int fd, off64_t *o, size_t n), to, fd, o, a_part(n))
READ(splice, (int fd, off64_t *a, int to, off64_t *b, size_t n, unsigned f), fd, a, to, b, a_part(n), f)

int close(int handle)
{
    REAL(close)
    if (handle >= 0 && handle < DESCRIPTORS)
        done[handle] = 0;
    return real(handle);
}
