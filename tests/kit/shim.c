/* A layer between the command and libc, loaded with LD_PRELOAD: it counts the calls by which a program changes and reads
 * files below one directory, and at a chosen call fails, does half, kills or stops the process. Never changes what a call
 * means until that moment, never allocates, and never calls libc for what it can ask the kernel itself.
 *
 * tests/kit/shim.rs compiles it, chooses by environment variables and reads the report:
 *   CKPT_SHIM_ROOT     only paths below this directory count
 *   CKPT_SHIM_REPORT   a file that is mapped and holds `struct report`, so that it is whole after a kill -9
 *   CKPT_SHIM_KINDS    bits of the kinds that count
 *   CKPT_SHIM_PATH     only paths with this in them count; absent: all
 *   CKPT_SHIM_WITHOUT  paths with this in them don't
 *   CKPT_SHIM_AT       the number, from 1, of the call to act on; 0: none
 *   CKPT_SHIM_ACT      fail, half, kill, stop, torn (half of a write, then kill)
 *   CKPT_SHIM_ERRNO    what a failing call says; with `half`, what the calls after it say, 0 for nothing
 *   CKPT_SHIM_LASTING  1: every later call fails as well
 *   CKPT_SHIM_AFTER    1: kill or stop after the call and not before it
 *   CKPT_SHIM_WHILE    calls fail only while this file has at least CKPT_SHIM_BYTES; absent: always
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN, CREATE, READ, WRITE, SYNC, ROOM, RENAME, LINK, REMOVE, MKDIR, LIST, STAT, LOCK, CLOSE, MODE, KINDS };
enum act { NOTHING, FAIL, HALF, KILL, STOP, TORN };

static const char *const NAMES[KINDS] = { "open", "create", "read", "write", "sync", "room", "rename", "link", "remove",
    "mkdir", "list", "stat", "lock", "close", "mode" };

#define TEXT 400
#define FDS 1024

struct report {
    _Atomic uint64_t calls;        /* that count */
    _Atomic uint64_t fired;        /* the number of the call that was acted on; 0: none */
    _Atomic uint64_t made[16];     /* all below the root, by kind */
    char what[TEXT];               /* the call that was acted on */
    char last[TEXT];               /* the latest change */
};

struct call {
    enum act act;
    int error;
};

static struct report nowhere, *report = &nowhere;
static char root[1024], wanted[256], unwanted[256], guard[1024];
static size_t root_len;
static uint64_t kinds, at, guard_bytes;
static enum act act;
static int error, lasting, after;
/* Paths of open files below the root, by descriptor, relative to it. */
static char names[FDS][TEXT];

static const char *text_of(const char *name, const char *absent) {
    const char *value = getenv(name);
    return value && *value ? value : absent;
}

__attribute__((constructor)) static void begin(void) {
    static const char *const acts[] = { "", "fail", "half", "kill", "stop", "torn" };
    const char *to = text_of("CKPT_SHIM_REPORT", NULL), *chosen = text_of("CKPT_SHIM_ACT", "");
    if (!to) return;
    strncpy(wanted, text_of("CKPT_SHIM_PATH", ""), sizeof wanted - 1);
    strncpy(unwanted, text_of("CKPT_SHIM_WITHOUT", ""), sizeof unwanted - 1);
    kinds = strtoull(text_of("CKPT_SHIM_KINDS", "0"), NULL, 10);
    at = strtoull(text_of("CKPT_SHIM_AT", "0"), NULL, 10);
    error = atoi(text_of("CKPT_SHIM_ERRNO", "0"));
    lasting = atoi(text_of("CKPT_SHIM_LASTING", "0"));
    after = atoi(text_of("CKPT_SHIM_AFTER", "0"));
    strncpy(guard, text_of("CKPT_SHIM_WHILE", ""), sizeof guard - 1);
    guard_bytes = strtoull(text_of("CKPT_SHIM_BYTES", "0"), NULL, 10);
    for (int nr = 0; nr < 6; nr++)
        if (!strcmp(chosen, acts[nr])) act = nr;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, to, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map == MAP_FAILED) return;
    report = map;
    strncpy(root, text_of("CKPT_SHIM_ROOT", "/nowhere"), sizeof root - 1);
    root_len = strlen(root);
}

/* The part of a path below the root, or null. What is relative to an open directory is told by its descriptor. */
static const char *below(int dir, const char *path, char *buffer) {
    if (!root_len || !path) return NULL;
    if (path[0] == '/') {
        if (strncmp(path, root, root_len) || (path[root_len] != '/' && path[root_len])) return NULL;
        return path[root_len] ? path + root_len + 1 : "";
    }
    if (dir < 0 || dir >= FDS || !names[dir][0]) return NULL;
    size_t len = strnlen(names[dir], TEXT - 2);
    memcpy(buffer, names[dir], len);
    buffer[len++] = '/';
    strncpy(buffer + len, path, TEXT - len - 1);
    buffer[TEXT - 1] = 0;
    return buffer;
}

static const char *name_of(int fd) {
    return fd >= 0 && fd < FDS && names[fd][0] ? names[fd] : NULL;
}

static void opened(int fd, const char *path) {
    if (fd < 0 || fd >= FDS) return;
    names[fd][0] = 0;
    if (path) {
        /* The root itself has a name too. */
        strncpy(names[fd], *path ? path : ".", TEXT - 1);
        names[fd][TEXT - 1] = 0;
    }
}

static void closed(int fd) {
    if (fd >= 0 && fd < FDS) names[fd][0] = 0;
}

static void note(char *to, enum kind kind, const char *path) {
    size_t len = strlen(NAMES[kind]);
    memcpy(to, NAMES[kind], len);
    to[len++] = ' ';
    strncpy(to + len, path, TEXT - len - 1);
    to[TEXT - 1] = 0;
}

static void end_here(void) {
    /* To this thread, so that it goes no further. */
    syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), act == STOP ? SIGSTOP : SIGKILL);
}

/* Whether the file that calls fail for is as long as that needs. */
static int is_guarded(void) {
    if (!*guard) return 1;
    int saved = errno;
    struct statx about;
    long answer = syscall(SYS_statx, AT_FDCWD, guard, AT_SYMLINK_NOFOLLOW, STATX_SIZE, &about);
    errno = saved;
    return !answer && about.stx_size >= guard_bytes;
}

/* Counts a call that is about to be made and says what becomes of it. */
static struct call before(enum kind kind, const char *path) {
    struct call call = { NOTHING, 0 };
    if (!path) return call;
    atomic_fetch_add_explicit(&report->made[kind], 1, memory_order_relaxed);
    if (kind != OPEN && kind != READ && kind != LIST && kind != STAT && kind != LOCK && kind != CLOSE)
        note(report->last, kind, path);
    if (!(kinds >> kind & 1)) return call;
    if ((*wanted && !strstr(path, wanted)) || (*unwanted && strstr(path, unwanted))) return call;
    uint64_t nr = atomic_fetch_add(&report->calls, 1) + 1;
    if (!at || nr < at || !is_guarded()) return call;
    if (nr == at) {
        note(report->what, kind, path);
        atomic_store(&report->fired, nr);
        if ((act == KILL || act == STOP) && !after) {
            int saved = errno;
            end_here();
            errno = saved;
            return call;
        }
        call.act = act;
        call.error = error;
    } else if (act == FAIL && lasting) {
        call.act = FAIL;
        call.error = error;
    } else if (act == HALF && error && (lasting || nr == at + 1)) {
        call.act = FAIL;
        call.error = error;
    }
    return call;
}

static void done(struct call call) {
    if (call.act == KILL || call.act == STOP || call.act == TORN) {
        int saved = errno;
        end_here();
        errno = saved;
    }
}

/* How much of a transfer is made. */
static size_t part(struct call call, size_t len) {
    return (call.act == HALF || call.act == TORN) && len > 1 ? len / 2 : len;
}

#define EXPORT __attribute__((visibility("default")))
/* Makes a system call unless it is to fail. */
#define MAKE(kind, path, ...)                                                                                                \
    struct call call = before(kind, path);                                                                                   \
    if (call.act == FAIL) {                                                                                                  \
        errno = call.error;                                                                                                  \
        return -1;                                                                                                           \
    }                                                                                                                        \
    long answer = syscall(__VA_ARGS__);                                                                                      \
    done(call)

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    char buffer[TEXT];
    const char *inside = below(dir, path, buffer);
    MAKE(flags & O_CREAT ? CREATE : OPEN, inside, SYS_openat, dir, path, flags, mode);
    opened((int)answer, inside);
    return (int)answer;
}

static mode_t mode_of(int flags, va_list *rest) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(*rest, mode_t) : 0;
}

#define OPEN_LIKE(name)                                                                                                      \
    EXPORT int name(const char *path, int flags, ...) {                                                                      \
        va_list rest;                                                                                                        \
        va_start(rest, flags);                                                                                               \
        mode_t mode = mode_of(flags, &rest);                                                                                 \
        va_end(rest);                                                                                                        \
        return open_at(AT_FDCWD, path, flags, mode);                                                                         \
    }
#define OPENAT_LIKE(name)                                                                                                    \
    EXPORT int name(int dir, const char *path, int flags, ...) {                                                             \
        va_list rest;                                                                                                        \
        va_start(rest, flags);                                                                                               \
        mode_t mode = mode_of(flags, &rest);                                                                                 \
        va_end(rest);                                                                                                        \
        return open_at(dir, path, flags, mode);                                                                              \
    }
OPEN_LIKE(open)
OPEN_LIKE(open64)
OPENAT_LIKE(openat)
OPENAT_LIKE(openat64)
EXPORT int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

EXPORT int close(int fd) {
    const char *path = name_of(fd);
    struct call call = before(CLOSE, path);
    closed(fd);
    /* Closed it is in any case: that is what Linux does. */
    long answer = syscall(SYS_close, fd);
    done(call);
    if (call.act == FAIL) {
        errno = call.error;
        return -1;
    }
    return (int)answer;
}

EXPORT ssize_t read(int fd, void *to, size_t len) {
    MAKE(READ, name_of(fd), SYS_read, fd, to, part(call, len));
    return answer;
}
EXPORT ssize_t pread64(int fd, void *to, size_t len, off64_t from) {
    MAKE(READ, name_of(fd), SYS_pread64, fd, to, part(call, len), from);
    return answer;
}
EXPORT ssize_t pread(int fd, void *to, size_t len, off_t from) { return pread64(fd, to, len, from); }
EXPORT ssize_t readv(int fd, const struct iovec *parts, int count) {
    MAKE(READ, name_of(fd), SYS_readv, fd, parts, count);
    return answer;
}
EXPORT ssize_t __read_chk(int fd, void *to, size_t len, size_t room) {
    (void)room;
    return read(fd, to, len);
}
EXPORT ssize_t __pread64_chk(int fd, void *to, size_t len, off64_t from, size_t room) {
    (void)room;
    return pread64(fd, to, len, from);
}
EXPORT ssize_t __pread_chk(int fd, void *to, size_t len, off_t from, size_t room) {
    (void)room;
    return pread64(fd, to, len, from);
}

EXPORT ssize_t write(int fd, const void *from, size_t len) {
    MAKE(WRITE, name_of(fd), SYS_write, fd, from, part(call, len));
    return answer;
}
EXPORT ssize_t pwrite64(int fd, const void *from, size_t len, off64_t to) {
    MAKE(WRITE, name_of(fd), SYS_pwrite64, fd, from, part(call, len), to);
    return answer;
}
EXPORT ssize_t pwrite(int fd, const void *from, size_t len, off_t to) { return pwrite64(fd, from, len, to); }
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    MAKE(WRITE, name_of(fd), SYS_writev, fd, parts, count);
    return answer;
}

#define BY_FD(name, kind, number)                                                                                            \
    EXPORT int name(int fd) {                                                                                                \
        MAKE(kind, name_of(fd), number, fd);                                                                                 \
        return (int)answer;                                                                                                  \
    }
BY_FD(fsync, SYNC, SYS_fsync)
BY_FD(fdatasync, SYNC, SYS_fdatasync)

EXPORT int sync_file_range(int fd, off64_t from, off64_t len, unsigned flags) {
    MAKE(SYNC, name_of(fd), SYS_sync_file_range, fd, from, len, flags);
    return (int)answer;
}
EXPORT int ftruncate64(int fd, off64_t len) {
    MAKE(ROOM, name_of(fd), SYS_ftruncate, fd, len);
    return (int)answer;
}
EXPORT int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }
EXPORT int fallocate64(int fd, int mode, off64_t from, off64_t len) {
    MAKE(ROOM, name_of(fd), SYS_fallocate, fd, mode, from, len);
    return (int)answer;
}
EXPORT int fallocate(int fd, int mode, off_t from, off_t len) { return fallocate64(fd, mode, from, len); }
EXPORT int posix_fallocate64(int fd, off64_t from, off64_t len) { return fallocate64(fd, 0, from, len) ? errno : 0; }
EXPORT int posix_fallocate(int fd, off_t from, off_t len) { return fallocate64(fd, 0, from, len) ? errno : 0; }

static int rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char buffer[TEXT];
    MAKE(RENAME, below(to_dir, to, buffer), SYS_renameat2, from_dir, from, to_dir, to, flags);
    return (int)answer;
}
EXPORT int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int renameat(int a, const char *from, int b, const char *to) { return rename_at(a, from, b, to, 0); }
EXPORT int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return rename_at(a, from, b, to, flags);
}
EXPORT int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char buffer[TEXT];
    MAKE(LINK, below(to_dir, to, buffer), SYS_linkat, from_dir, from, to_dir, to, flags);
    return (int)answer;
}
EXPORT int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int symlinkat(const char *target, int dir, const char *path) {
    char buffer[TEXT];
    MAKE(LINK, below(dir, path, buffer), SYS_symlinkat, target, dir, path);
    return (int)answer;
}
EXPORT int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }
EXPORT int unlinkat(int dir, const char *path, int flags) {
    char buffer[TEXT];
    MAKE(REMOVE, below(dir, path, buffer), SYS_unlinkat, dir, path, flags);
    return (int)answer;
}
EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
EXPORT int mkdirat(int dir, const char *path, mode_t mode) {
    char buffer[TEXT];
    MAKE(MKDIR, below(dir, path, buffer), SYS_mkdirat, dir, path, mode);
    return (int)answer;
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

EXPORT int flock(int fd, int how) {
    MAKE(LOCK, name_of(fd), SYS_flock, fd, how);
    return (int)answer;
}
EXPORT int fchmod(int fd, mode_t mode) {
    MAKE(MODE, name_of(fd), SYS_fchmod, fd, mode);
    return (int)answer;
}
EXPORT int chmod(const char *path, mode_t mode) {
    MAKE(MODE, below(AT_FDCWD, path, NULL), SYS_fchmodat, AT_FDCWD, path, mode);
    return (int)answer;
}
EXPORT int futimens(int fd, const struct timespec times[2]) {
    MAKE(MODE, name_of(fd), SYS_utimensat, fd, NULL, times, 0);
    return (int)answer;
}

EXPORT int statx(int dir, const char *path, int flags, unsigned mask, struct statx *to) {
    char buffer[TEXT];
    /* Rust probes with null, which glibc's header says can't be: the compiler must not know what this is. */
    const char *volatile given = path;
    const char *inside = given && !*given ? name_of(dir) : below(dir, given, buffer);
    MAKE(STAT, inside, SYS_statx, dir, path, flags, mask, to);
    return (int)answer;
}
EXPORT int access(const char *path, int mode) {
    MAKE(STAT, below(AT_FDCWD, path, NULL), SYS_faccessat, AT_FDCWD, path, mode);
    return (int)answer;
}
/* What glibc means by these differs between machines, so it does them itself. */
#define STAT_LIKE(name, type, path_type, inside)                                                                             \
    EXPORT int name(path_type path, struct type *to) {                                                                       \
        static int (*_Atomic real)(path_type, struct type *);                                                                \
        if (!real) real = (int (*)(path_type, struct type *))dlsym(RTLD_NEXT, #name);                                        \
        struct call call = before(STAT, inside);                                                                             \
        if (call.act == FAIL) {                                                                                              \
            errno = call.error;                                                                                              \
            return -1;                                                                                                       \
        }                                                                                                                    \
        int answer = real(path, to);                                                                                         \
        done(call);                                                                                                          \
        return answer;                                                                                                       \
    }
STAT_LIKE(stat, stat, const char *, below(AT_FDCWD, path, NULL))
STAT_LIKE(stat64, stat64, const char *, below(AT_FDCWD, path, NULL))
STAT_LIKE(lstat, stat, const char *, below(AT_FDCWD, path, NULL))
STAT_LIKE(lstat64, stat64, const char *, below(AT_FDCWD, path, NULL))
STAT_LIKE(fstat, stat, int, name_of(path))
STAT_LIKE(fstat64, stat64, int, name_of(path))

EXPORT DIR *opendir(const char *path) {
    /* By descriptor, so that what is read of it is known to lie below the root. */
    char buffer[TEXT];
    const char *inside = below(AT_FDCWD, path, buffer);
    struct call call = before(LIST, inside);
    if (call.act == FAIL) {
        errno = call.error;
        return NULL;
    }
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) return NULL;
    opened(fd, inside);
    done(call);
    DIR *folder = fdopendir(fd);
    if (!folder) {
        closed(fd);
        syscall(SYS_close, fd);
    }
    return folder;
}
EXPORT int closedir(DIR *folder) {
    static int (*_Atomic real)(DIR *);
    if (!real) real = (int (*)(DIR *))dlsym(RTLD_NEXT, "closedir");
    closed(dirfd(folder));
    return real(folder);
}
#define READ_DIR(name, type)                                                                                                 \
    EXPORT struct type *name(DIR *folder) {                                                                                  \
        static struct type *(*_Atomic real)(DIR *);                                                                          \
        if (!real) real = (struct type * (*)(DIR *)) dlsym(RTLD_NEXT, #name);                                                \
        struct call call = before(LIST, name_of(dirfd(folder)));                                                             \
        if (call.act == FAIL) {                                                                                              \
            errno = call.error;                                                                                              \
            return NULL;                                                                                                     \
        }                                                                                                                    \
        struct type *answer = real(folder);                                                                                  \
        done(call);                                                                                                          \
        return answer;                                                                                                       \
    }
READ_DIR(readdir, dirent)
READ_DIR(readdir64, dirent64)
