/* Counts what a process does to the world outside, and ends or stops it at one of these moments as kill does.
 *
 * Loaded by LD_PRELOAD. Counting begins with rmdir("/effects begin"), or at once with EFFECTS_AT_ONCE=1. EFFECTS names
 * a file that gets a line for each effect; EFFECTS_KILL=N sends the process SIGKILL, or the signal of the number
 * EFFECTS_SIGNAL, before the Nth effect (from 1), or right after it with EFFECTS_AFTER=1. With EFFECTS_MATCH only effects
 * count whose name and object, "rename /a/b", contain it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int begun, count;

__attribute__((constructor)) static void start(void) { atomic_store(&begun, getenv("EFFECTS_AT_ONCE") != NULL); }

/* Returns when a process that was stopped is continued. */
static void end(void) {
  const char *number = getenv("EFFECTS_SIGNAL");
  syscall(SYS_kill, getpid(), number ? atoi(number) : SIGKILL);
  if (!number) for (;;) pause();
}

static int fatal(int n) {
  const char *at = getenv("EFFECTS_KILL");
  return at && atoi(at) == n;
}

/* The number of this effect; 0 before counting has begun. */
static int before(const char *name, const char *what) {
  if (!atomic_load(&begun)) return 0;
  const char *match = getenv("EFFECTS_MATCH");
  if (match) {
    char line[512];
    snprintf(line, sizeof line, "%s %s", name, what ? what : "");
    if (!strstr(line, match)) return 0;
  }
  int n = atomic_fetch_add(&count, 1) + 1;
  const char *log = getenv("EFFECTS");
  if (log) {
    char line[512];
    int length = snprintf(line, sizeof line, "%d %s %s\n", n, name, what ? what : "");
    if (length > (int)sizeof line - 1) length = sizeof line - 1;
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0) { syscall(SYS_write, fd, line, length); syscall(SYS_close, fd); }
  }
  if (fatal(n) && !getenv("EFFECTS_AFTER")) end();
  return n;
}

static void after(int n) { if (n && fatal(n) && getenv("EFFECTS_AFTER")) end(); }

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define EFFECT(type, name, what, params, args) \
  type name params { \
    REAL(name); \
    int n = before(#name, what); \
    type found = real args; \
    after(n); \
    return found; \
  }

EFFECT(int, rename, b, (const char *a, const char *b), (a, b))
EFFECT(int, renameat, b, (int d, const char *a, int e, const char *b), (d, a, e, b))
EFFECT(int, renameat2, b, (int d, const char *a, int e, const char *b, unsigned f), (d, a, e, b, f))
EFFECT(int, link, b, (const char *a, const char *b), (a, b))
EFFECT(int, linkat, b, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f))
EFFECT(int, unlink, a, (const char *a), (a))
EFFECT(int, unlinkat, a, (int d, const char *a, int f), (d, a, f))
EFFECT(int, mkdir, a, (const char *a, mode_t m), (a, m))
EFFECT(int, mkdirat, a, (int d, const char *a, mode_t m), (d, a, m))
EFFECT(int, fsync, "", (int fd), (fd))
EFFECT(int, fdatasync, "", (int fd), (fd))
EFFECT(int, ftruncate, "", (int fd, off_t n_), (fd, n_))
EFFECT(int, ftruncate64, "", (int fd, off64_t n_), (fd, n_))

int rmdir(const char *path) {
  REAL(rmdir);
  if (!strcmp(path, "/effects begin")) { atomic_store(&begun, 1); return 0; }
  int n = before("rmdir", path);
  int found = real(path);
  after(n);
  return found;
}

/* Pipes and event counters are the process's own business. */
static int outside(int fd) {
  struct stat of;
  return atomic_load(&begun) && !syscall(SYS_fstat, fd, &of) && (S_ISREG(of.st_mode) || S_ISSOCK(of.st_mode));
}

#define TRANSFER(name, params, args) \
  ssize_t name params { \
    REAL(name); \
    int n = outside(fd) ? before(#name, "") : 0; \
    ssize_t found = real args; \
    after(n); \
    return found; \
  }

TRANSFER(write, (int fd, const void *b, size_t s), (fd, b, s))
TRANSFER(pwrite, (int fd, const void *b, size_t s, off_t o), (fd, b, s, o))
TRANSFER(pwrite64, (int fd, const void *b, size_t s, off64_t o), (fd, b, s, o))
TRANSFER(writev, (int fd, const struct iovec *v, int c), (fd, v, c))
TRANSFER(send, (int fd, const void *b, size_t s, int f), (fd, b, s, f))
TRANSFER(sendto, (int fd, const void *b, size_t s, int f, const struct sockaddr *a, socklen_t l), (fd, b, s, f, a, l))
TRANSFER(sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f))

#define OPENS(name, params, args) \
  int name params { \
    static int (*real)(); \
    if (!real) real = (int (*)())dlsym(RTLD_NEXT, #name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); } \
    int n = flags & (O_CREAT | O_TRUNC) ? before(#name, path) : 0; \
    int found = real args; \
    after(n); \
    return found; \
  }

OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int d, const char *path, int flags, ...), (d, path, flags, mode))
OPENS(openat64, (int d, const char *path, int flags, ...), (d, path, flags, mode))
