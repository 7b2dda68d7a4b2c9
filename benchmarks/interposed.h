/* What the two shims that stand between a program and its files share: which paths are meant, and the calls behind.
 *
 * Include the system's headers before this, with _GNU_SOURCE.
 */
static const char *below; /* the folder that is meant */
static size_t below_length;

static int is_below(const char *path) {
    return below_length && !strncmp(path, below, below_length) && (path[below_length] == '/' || !path[below_length]);
}

/* By what the kernel says: right for duplicates, too, and for what was open before this process began. */
static int link_is_below(const char *link) {
    char path[PATH_MAX];
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    return is_below(path);
}

static int fd_is_below(int fd) {
    char link[48];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return link_is_below(link);
}

/* The function that would have been called without this one. */
#define NEXT(name) ({ static __typeof__(&name) next; \
                      next = next ? next : (__typeof__(&name))dlsym(RTLD_NEXT, #name); next; })

/* The third argument of open, where there is one. */
#define MODE(flags) ({ mode_t mode = 0; \
                       if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
                           va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } mode; })
