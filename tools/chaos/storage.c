/* A file system that is slow, or full for some files: preloaded into a process by tools/chaos/storage.py.

   CHAOS_ROOT      the folder that is meant; all else is as it was
   CHAOS_DELAY_MS  each call that a network file system answers from its server takes so much longer
   CHAOS_FULL      a shell pattern of paths: their writes fail with ENOSPC ...
   CHAOS_FLAG      ... while this file exists; each failed write adds a byte to FLAG.hits */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int inside(const char *path) {
  const char *root = getenv("CHAOS_ROOT");
  return root && path && !strncmp(path, root, strlen(root));
}

static void wait_for_server(void) {
  const char *text = getenv("CHAOS_DELAY_MS");
  long ms = text ? atol(text) : 0;
  struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
  while (ms && nanosleep(&left, &left) && errno == EINTR) {
  }
}

static void slow(const char *path) {
  int before = errno;
  if (inside(path)) wait_for_server();
  errno = before;
}

/* The path of an open file; 0 if it has none. */
static int path_of(int fd, char *path, size_t size) {
  char link[64];
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, size - 1);
  errno = before;
  if (length <= 0) return 0;
  path[length] = 0;
  return 1;
}

static void slow_file(int fd) {
  char path[4096];
  if (getenv("CHAOS_DELAY_MS") && path_of(fd, path, sizeof path)) slow(path);
}

static int full(int fd) {
  const char *flag = getenv("CHAOS_FLAG"), *pattern = getenv("CHAOS_FULL");
  char path[4096], hits[4096];
  if (!flag || !pattern || syscall(SYS_access, flag, F_OK)) return 0;
  if (!path_of(fd, path, sizeof path) || !inside(path) || fnmatch(pattern, path, 0)) return 0;
  snprintf(hits, sizeof hits, "%s.hits", flag);
  int counted = syscall(SYS_openat, AT_FDCWD, hits, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (counted >= 0) {
    syscall(SYS_write, counted, "x", 1);
    syscall(SYS_close, counted);
  }
  errno = ENOSPC;
  return 1;
}

#define WRITING(type, name, parameters, ...)     \
  type name parameters {                         \
    if (full(fd)) return -1;                     \
    return REAL(name)(__VA_ARGS__);              \
  }
WRITING(ssize_t, write, (int fd, const void *from, size_t n), fd, from, n)
WRITING(ssize_t, pwrite, (int fd, const void *from, size_t n, off_t at), fd, from, n, at)
WRITING(ssize_t, pwrite64, (int fd, const void *from, size_t n, off64_t at), fd, from, n, at)
WRITING(ssize_t, writev, (int fd, const struct iovec *parts, int n), fd, parts, n)
WRITING(ssize_t, pwritev, (int fd, const struct iovec *parts, int n, off_t at), fd, parts, n, at)
WRITING(ssize_t, pwritev64, (int fd, const struct iovec *parts, int n, off64_t at), fd, parts, n, at)
WRITING(ssize_t, sendfile, (int fd, int from, off_t *at, size_t n), fd, from, at, n)
WRITING(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t n), fd, from, at, n)

#define OPENING(name)                                           \
  int name(const char *path, int flags, ...) {                  \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                               \
    slow(path);                                                 \
    return REAL(name)(path, flags, mode);                       \
  }
OPENING(open)
OPENING(open64)

#define OPENING_AT(name)                                        \
  int name(int folder, const char *path, int flags, ...) {      \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                               \
    slow(path);                                                 \
    return REAL(name)(folder, path, flags, mode);               \
  }
OPENING_AT(openat)
OPENING_AT(openat64)

#define OF_PATH(name, parameters, ...)  \
  int name parameters {                 \
    slow(path);                         \
    return REAL(name)(__VA_ARGS__);     \
  }
OF_PATH(stat, (const char *path, struct stat *to), path, to)
OF_PATH(stat64, (const char *path, struct stat64 *to), path, to)
OF_PATH(lstat, (const char *path, struct stat *to), path, to)
OF_PATH(lstat64, (const char *path, struct stat64 *to), path, to)
OF_PATH(fstatat, (int folder, const char *path, struct stat *to, int flags), folder, path, to, flags)
OF_PATH(fstatat64, (int folder, const char *path, struct stat64 *to, int flags), folder, path, to, flags)
OF_PATH(access, (const char *path, int mode), path, mode)
OF_PATH(mkdir, (const char *path, mode_t mode), path, mode)
OF_PATH(mkdirat, (int folder, const char *path, mode_t mode), folder, path, mode)
OF_PATH(rmdir, (const char *path), path)
OF_PATH(unlink, (const char *path), path)
OF_PATH(unlinkat, (int folder, const char *path, int flags), folder, path, flags)
OF_PATH(rename, (const char *path, const char *to), path, to)
OF_PATH(renameat, (int folder, const char *path, int other, const char *to), folder, path, other, to)

DIR *opendir(const char *path) {
  slow(path);
  return REAL(opendir)(path);
}

#define OF_FILE(name)          \
  int name(int fd) {           \
    slow_file(fd);             \
    return REAL(name)(fd);     \
  }
OF_FILE(fsync)
OF_FILE(fdatasync)
