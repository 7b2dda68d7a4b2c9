/* A file system that fails: calls about files below one folder end in an error, at a rate that can be changed meanwhile.
 *
 *     cc -O2 -shared -fPIC -o faults.so faults.c -ldl
 *     FAULTS_FOLDER=/runs/x FAULTS_CONTROL=/runs/x.faults LD_PRELOAD=./faults.so python …
 *
 * The control file holds four 32-bit numbers: how many calls in a million fail, the errno that they fail with, and how
 * many have failed with ESTALE and with ENOSPC, which every process adds to. Where the rate is 0 nothing is done.
 *
 * ESTALE: calls that name a file, and reads; ENOSPC: what makes or fills one. Not covered: descriptors' own fstat, mmap,
 * and close (a write that fails late fails in fsync here). The verbs that a user types are spared: one that reports the
 * error and ends is typed again, which says nothing about the run.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../../benchmarks/interposed.h"

struct control { volatile uint32_t rate, number, stale, full; };
static struct control *control;

static int is_verb(void) {
    static const char *spared[] = {"ecm_cluster.submit", "ecm_cluster.resume", "ecm_cluster.status", "ecm_cluster.cancel"};
    char words[4096];
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    ssize_t count = fd < 0 ? 0 : syscall(SYS_read, fd, words, sizeof words);
    if (fd >= 0)
        syscall(SYS_close, fd);
    for (unsigned i = 0; i < sizeof spared / sizeof *spared; i++)
        if (count > 0 && memmem(words, count, spared[i], strlen(spared[i])))
            return 1;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    below = getenv("FAULTS_FOLDER");
    if (!path || !below || is_verb())
        return;
    below_length = strlen(below);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    control = at == MAP_FAILED ? NULL : at;
}

static int name_is_below(int folder, const char *path) {
    if (!path || !*path)
        return 0;
    if (*path == '/')
        return is_below(path);
    return folder == AT_FDCWD ? link_is_below("/proc/self/cwd") : fd_is_below(folder);
}

/* Whether this call must fail; errno is then set. `fills`: it makes or fills a file. */
static int due(int fills) {
    static __thread uint64_t seed;
    if (!control || !control->rate || (control->number == ENOSPC && !fills))
        return 0;
    if (!seed) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        seed = now.tv_nsec ^ (uint64_t)syscall(SYS_gettid) << 32 ^ (uintptr_t)&seed;
    }
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % 1000000 < control->rate;
}

static int fail(void) {
    __atomic_fetch_add(control->number == ENOSPC ? &control->full : &control->stale, 1, __ATOMIC_RELAXED);
    errno = control->number;
    return 1;
}

#define NAME_FAILS(folder, path, fills) (due(fills) && name_is_below(folder, path) && fail())
#define FD_FAILS(fd, fills) (due(fills) && fd_is_below(fd) && fail())
#define OPEN(name) int name(const char *path, int flags, ...) { \
    mode_t mode = MODE(flags); \
    return NAME_FAILS(AT_FDCWD, path, flags & O_CREAT) ? -1 : NEXT(name)(path, flags, mode); }
#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    mode_t mode = MODE(flags); \
    return NAME_FAILS(folder, path, flags & O_CREAT) ? -1 : NEXT(name)(folder, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

#define FOPEN(name) FILE *name(const char *restrict path, const char *restrict mode) { \
    return NAME_FAILS(AT_FDCWD, path, *mode != 'r') ? NULL : NEXT(name)(path, mode); }
FOPEN(fopen) FOPEN(fopen64)

DIR *opendir(const char *path) { return NAME_FAILS(AT_FDCWD, path, 0) ? NULL : NEXT(opendir)(path); }

#define CALL(kind, name, parameters, fails, ...) kind name parameters { return fails ? -1 : NEXT(name)(__VA_ARGS__); }
CALL(int, stat, (const char *restrict path, struct stat *restrict to), NAME_FAILS(AT_FDCWD, path, 0), path, to)
CALL(int, stat64, (const char *restrict path, struct stat64 *restrict to), NAME_FAILS(AT_FDCWD, path, 0), path, to)
CALL(int, lstat, (const char *restrict path, struct stat *restrict to), NAME_FAILS(AT_FDCWD, path, 0), path, to)
CALL(int, lstat64, (const char *restrict path, struct stat64 *restrict to), NAME_FAILS(AT_FDCWD, path, 0), path, to)
CALL(int, fstatat, (int at, const char *restrict path, struct stat *restrict to, int flags), NAME_FAILS(at, path, 0),
     at, path, to, flags)
CALL(int, fstatat64, (int at, const char *restrict path, struct stat64 *restrict to, int flags),
     NAME_FAILS(at, path, 0), at, path, to, flags)
CALL(int, statx, (int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict to),
     NAME_FAILS(at, path, 0), at, path, flags, mask, to)
CALL(int, rename, (const char *from, const char *to), NAME_FAILS(AT_FDCWD, to, 1), from, to)
CALL(int, renameat, (int at, const char *from, int to_at, const char *to), NAME_FAILS(to_at, to, 1), at, from, to_at, to)
CALL(int, link, (const char *from, const char *to), NAME_FAILS(AT_FDCWD, to, 1), from, to)
CALL(int, linkat, (int at, const char *from, int to_at, const char *to, int flags), NAME_FAILS(to_at, to, 1),
     at, from, to_at, to, flags)
CALL(int, unlink, (const char *path), NAME_FAILS(AT_FDCWD, path, 0), path)
CALL(int, unlinkat, (int at, const char *path, int flags), NAME_FAILS(at, path, 0), at, path, flags)
CALL(int, mkdir, (const char *path, mode_t mode), NAME_FAILS(AT_FDCWD, path, 1), path, mode)
CALL(int, fsync, (int fd), FD_FAILS(fd, 1), fd)
CALL(int, ftruncate, (int fd, off_t size), FD_FAILS(fd, 1), fd, size)
CALL(int, ftruncate64, (int fd, off64_t size), FD_FAILS(fd, 1), fd, size)
CALL(ssize_t, read, (int fd, void *to, size_t count), FD_FAILS(fd, 0), fd, to, count)
CALL(ssize_t, pread, (int fd, void *to, size_t count, off_t at), FD_FAILS(fd, 0), fd, to, count, at)
CALL(ssize_t, pread64, (int fd, void *to, size_t count, off64_t at), FD_FAILS(fd, 0), fd, to, count, at)
CALL(ssize_t, write, (int fd, const void *from, size_t count), FD_FAILS(fd, 1), fd, from, count)
CALL(ssize_t, pwrite, (int fd, const void *from, size_t count, off_t at), FD_FAILS(fd, 1), fd, from, count, at)
CALL(ssize_t, pwrite64, (int fd, const void *from, size_t count, off64_t at), FD_FAILS(fd, 1), fd, from, count, at)
CALL(ssize_t, writev, (int fd, const struct iovec *from, int count), FD_FAILS(fd, 1), fd, from, count)
CALL(ssize_t, sendfile, (int out, int in, off_t *at, size_t count), FD_FAILS(out, 1), out, in, at, count)
CALL(ssize_t, sendfile64, (int out, int in, off64_t *at, size_t count), FD_FAILS(out, 1), out, in, at, count)
