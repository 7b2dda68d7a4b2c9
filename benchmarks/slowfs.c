/* A network file system, imitated: files below one folder answer only after round trips that are slept for.
 *
 *     cc -O2 -shared -fPIC -o slowfs.so slowfs.c -ldl
 *     SLOWFS_FOLDER=/data SLOWFS_US=300 LD_PRELOAD=./slowfs.so cp -r /data elsewhere
 *
 * Round trips: to open a file 2 (look up the name, open it), to open a folder or to stat a name 1, of a file that is
 * read 1 at its first byte and 1 for each further MiB that goes through one descriptor. Free: fstat, what is read of a
 * folder once it is open, writing, renaming, closing. Each trip is waited for by the thread that asked; nothing is read
 * ahead.
 *
 * Covered: names that are absolute, relative to the working directory, or to the descriptor of a folder, and
 * descriptors however they were come by: opened, duplicated, inherited. Not covered: stdio's own reads, mmap, links
 * from elsewhere that lead below the folder, programs that are linked statically or make system calls themselves.
 *
 * With SLOWFS_ERRORS=FILE storage fails as the file says at the moment: each of its lines is the number of an error and a
 * part of a path below the folder, as "116 .abort." (ESTALE) or "28 /" (ENOSPC). To open, list or stat such a name fails
 * then, except for 28, and to write or sync what was opened fails in any case.
 *
 * With SLOWFS_COUNT=FILE each process adds a line to the file when it exits: its name, and how many opens, stats,
 * folders, reads and round trips it was charged with.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "interposed.h"

#define MANY 65536 /* descriptors above this are looked at each time */
enum { UNKNOWN, FAST, SLOW };

static long trip_us;
static atomic_char state[MANY];  /* of each descriptor */
static atomic_size_t read_of[MANY]; /* bytes, of each descriptor that is SLOW */
static atomic_long opens, stats, folders, reads, trips;

__attribute__((constructor)) static void begin(void) {
    const char *us = getenv("SLOWFS_US");
    below = getenv("SLOWFS_FOLDER");
    below_length = below ? strlen(below) : 0;
    trip_us = us ? atol(us) : 0;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("SLOWFS_COUNT");
    char line[256];
    if (!path)
        return;
    int length = snprintf(line, sizeof line, "%s opens %ld stats %ld folders %ld reads %ld trips %ld\n",
                          program_invocation_short_name, opens, stats, folders, reads, trips);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0) {
        ssize_t written = write(fd, line, length);
        (void)written;
        syscall(SYS_close, fd);
    }
}

static void charge(atomic_long *kind, long count) {
    static __thread int precise;
    struct timespec left = {count * trip_us / 1000000, count * trip_us % 1000000 * 1000};
    int before = errno;
    if (!precise) /* the kernel may wake a sleeper 50 us late, which is much of a short trip */
        precise = prctl(PR_SET_TIMERSLACK, 1) == 0;
    atomic_fetch_add(kind, 1);
    atomic_fetch_add(&trips, count);
    while (trip_us && nanosleep(&left, &left) && errno == EINTR)
        ;
    errno = before;
}

static void charge_open(int flags) {
    if (flags & O_DIRECTORY)
        charge(&folders, 1);
    else
        charge(&opens, 2);
}

static int fd_is_slow(int fd) {
    if (fd < 0 || !below_length)
        return 0;
    if (fd < MANY && state[fd] != UNKNOWN)
        return state[fd] == SLOW;
    int slow = fd_is_below(fd);
    if (fd < MANY) {
        read_of[fd] = 0;
        state[fd] = slow ? SLOW : FAST;
    }
    return slow;
}

/* The error that is asked for on a path now, 0 for none. */
static int failing(const char *path) {
    static const char *orders;
    static int asked;
    char text[4096], *line = text, *end;
    if (!asked) {
        orders = getenv("SLOWFS_ERRORS");
        asked = 1;
    }
    if (!orders || !path || !is_below(path))
        return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, orders, O_RDONLY);
    if (fd < 0)
        return 0;
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    text[length > 0 ? length : 0] = 0;
    for (; *line; line = end + !!*end) {
        end = line + strcspn(line, "\n");
        char after = *end, *part;
        *end = 0;
        int number = strtol(line, &part, 10);
        if (number && *part && strstr(path, part + 1))
            return number;
        *end = after;
    }
    return 0;
}

static int name_fails(const char *path) {
    int number = failing(path);
    return number && number != ENOSPC ? (errno = number) : 0;
}

static int descriptor_fails(int fd) {
    char link[48], path[PATH_MAX];
    if (!below_length || !getenv("SLOWFS_ERRORS"))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    int number = failing(path);
    return number ? (errno = number) : 0;
}

static void forget(int fd) {
    if (fd >= 0 && fd < MANY)
        state[fd] = UNKNOWN;
}

static int name_is_slow(int folder, const char *path) {
    if (!path || !*path || !below_length) /* without a name it is about the descriptor */
        return 0;
    if (*path == '/')
        return is_below(path);
    return folder == AT_FDCWD ? link_is_below("/proc/self/cwd") : fd_is_slow(folder);
}

static ssize_t charge_read(int fd, ssize_t count) {
    if (count <= 0 || !fd_is_slow(fd))
        return count;
    size_t before = fd < MANY ? atomic_fetch_add(&read_of[fd], count) : 0;
    long due = !before + ((before + count) >> 20) - (before >> 20);
    if (due)
        charge(&reads, due);
    return count;
}

static int opened(int fd) {
    forget(fd); /* what this number meant before, if its end was not seen */
    return fd;
}

#define OPEN(name) int name(const char *path, int flags, ...) { \
    mode_t mode = MODE(flags); \
    if (name_is_slow(AT_FDCWD, path)) charge_open(flags); \
    if (name_fails(path)) return -1; \
    return opened(NEXT(name)(path, flags, mode)); }
#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    mode_t mode = MODE(flags); \
    if (name_is_slow(folder, path)) charge_open(flags); \
    if (name_fails(path)) return -1; \
    return opened(NEXT(name)(folder, path, flags, mode)); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

/* Programs that were compiled with checks (-D_FORTIFY_SOURCE), as those of most distributions, call these instead. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int folder, const char *path, int flags) { return openat(folder, path, flags); }
int __openat64_2(int folder, const char *path, int flags) { return openat64(folder, path, flags); }
ssize_t __read_chk(int fd, void *to, size_t count, size_t room) { (void)room; return read(fd, to, count); }
ssize_t __pread_chk(int fd, void *to, size_t n, off_t at, size_t room) { (void)room; return pread(fd, to, n, at); }
ssize_t __pread64_chk(int fd, void *to, size_t n, off64_t at, size_t room) {
    (void)room;
    return pread64(fd, to, n, at);
}

#define FOPEN(name) FILE *name(const char *restrict path, const char *restrict mode) { \
    if (name_is_slow(AT_FDCWD, path)) charge(&opens, 2); \
    if (name_fails(path)) return NULL; \
    FILE *file = NEXT(name)(path, mode); \
    if (file) forget(fileno(file)); \
    return file; }
FOPEN(fopen) FOPEN(fopen64)

DIR *opendir(const char *path) {
    if (name_is_slow(AT_FDCWD, path))
        charge(&folders, 1);
    if (name_fails(path))
        return NULL;
    DIR *folder = NEXT(opendir)(path);
    if (folder)
        forget(dirfd(folder));
    return folder;
}

#define STAT(name, kind) int name(const char *restrict path, struct kind *restrict found) { \
    if (name_is_slow(AT_FDCWD, path)) charge(&stats, 1); \
    if (name_fails(path)) return -1; \
    return NEXT(name)(path, found); }
#define STATAT(name, kind) int name(int folder, const char *restrict path, struct kind *restrict found, int flags) { \
    if (name_is_slow(folder, path)) charge(&stats, 1); \
    if (name_fails(path)) return -1; \
    return NEXT(name)(folder, path, found, flags); }
STAT(stat, stat) STAT(stat64, stat64) STAT(lstat, stat) STAT(lstat64, stat64)
STATAT(fstatat, stat) STATAT(fstatat64, stat64)

int statx(int folder, const char *restrict path, int flags, unsigned mask, struct statx *restrict found) {
    if (name_is_slow(folder, path))
        charge(&stats, 1);
    if (name_fails(path))
        return -1;
    return NEXT(statx)(folder, path, flags, mask, found);
}

/* The same in programs that were linked with glibc before 2.33. */
#define XSTAT(name, kind) int name(int version, const char *path, struct kind *found) { \
    int (*next)(int, const char *, struct kind *) = dlsym(RTLD_NEXT, #name); \
    if (name_is_slow(AT_FDCWD, path)) charge(&stats, 1); \
    if (name_fails(path)) return -1; \
    return next(version, path, found); }
#define XSTATAT(name, kind) int name(int version, int folder, const char *path, struct kind *found, int flags) { \
    int (*next)(int, int, const char *, struct kind *, int) = dlsym(RTLD_NEXT, #name); \
    if (name_is_slow(folder, path)) charge(&stats, 1); \
    if (name_fails(path)) return -1; \
    return next(version, folder, path, found, flags); }
XSTAT(__xstat, stat) XSTAT(__xstat64, stat64) XSTAT(__lxstat, stat) XSTAT(__lxstat64, stat64)
XSTATAT(__fxstatat, stat) XSTATAT(__fxstatat64, stat64)

#define READ(name, parameters, ...) ssize_t name parameters { return charge_read(fd, NEXT(name)(__VA_ARGS__)); }
READ(read, (int fd, void *to, size_t count), fd, to, count)
READ(pread, (int fd, void *to, size_t count, off_t at), fd, to, count, at)
READ(pread64, (int fd, void *to, size_t count, off64_t at), fd, to, count, at)
READ(readv, (int fd, const struct iovec *to, int count), fd, to, count)
READ(preadv, (int fd, const struct iovec *to, int count, off_t at), fd, to, count, at)
READ(preadv64, (int fd, const struct iovec *to, int count, off64_t at), fd, to, count, at)
READ(preadv2, (int fd, const struct iovec *to, int count, off_t at, int flags), fd, to, count, at, flags)
READ(preadv64v2, (int fd, const struct iovec *to, int count, off64_t at, int flags), fd, to, count, at, flags)
READ(copy_file_range, (int fd, off64_t *from, int out, off64_t *to, size_t count, unsigned flags),
     fd, from, out, to, count, flags)
READ(splice, (int fd, off64_t *from, int out, off64_t *to, size_t count, unsigned flags),
     fd, from, out, to, count, flags)
READ(sendfile, (int out, int fd, off_t *from, size_t count), out, fd, from, count)
READ(sendfile64, (int out, int fd, off64_t *from, size_t count), out, fd, from, count)

#define WRITE(name, result, parameters, ...) result name parameters { \
    return descriptor_fails(fd) ? -1 : NEXT(name)(__VA_ARGS__); }
WRITE(write, ssize_t, (int fd, const void *from, size_t count), fd, from, count)
WRITE(pwrite, ssize_t, (int fd, const void *from, size_t count, off_t at), fd, from, count, at)
WRITE(pwrite64, ssize_t, (int fd, const void *from, size_t count, off64_t at), fd, from, count, at)
WRITE(fsync, int, (int fd), fd)

/* Where a descriptor ends its meaning, it is examined again at its next use. */
int close(int fd) { forget(fd); return NEXT(close)(fd); }
int dup2(int fd, int as) { forget(as); return NEXT(dup2)(fd, as); }
int dup3(int fd, int as, int flags) { forget(as); return NEXT(dup3)(fd, as, flags); }
int fclose(FILE *file) { forget(fileno(file)); return NEXT(fclose)(file); }
int closedir(DIR *folder) { forget(dirfd(folder)); return NEXT(closedir)(folder); }
