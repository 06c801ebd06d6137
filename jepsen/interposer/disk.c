/* A disk and a clock that can be broken: loaded into a node with LD_PRELOAD.
 *
 * Beside the store's directory lie three files:
 *   disk    its first byte says what is wrong: 's' syncs stall until it is gone, 'f' the disk is full,
 *           'l' syncs are said to have succeeded, and did not; no file: nothing.
 *   synced  for each sync that succeeded, the file's inode and how long the file was when the sync began (two 64-bit
 *           numbers). What lies beyond would be gone after a power cut: the harness cuts it off.
 *   clock   by how many nanoseconds the wall clock is wrong, and the period in which it is so and isn't, by turns (two 64-bit
 *           numbers; period 0: all the time). The monotonic clock is left alone.
 *
 * Only processes with `--store DIR` among their arguments are meant. Standard output and error are left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char control[4200];
static int record = -1;
/* Shared with the harness: the file itself, in memory. */
static volatile int64_t *wrong_by_ns;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_fallocate64)(int, int, off64_t, off64_t);

/* Calls may come before the constructor has run: others' constructors write, too. */
static void *look(void **real, const char *name) {
  if (!*real) *real = dlsym(RTLD_NEXT, name);
  return *real;
}
#define REAL(name) ((__typeof__(real_##name))look((void **)&real_##name, #name))

__attribute__((constructor)) static void begin(void) {
  char arguments[8192], path[4200];
  int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t length = fd < 0 ? 0 : read(fd, arguments, sizeof arguments - 1);
  if (fd >= 0) close(fd);
  if (length <= 0) return;
  arguments[length] = 0;
  for (char *at = arguments; at < arguments + length; at += strlen(at) + 1) {
    char *store = at + strlen(at) + 1;
    if (strcmp(at, "--store") == 0 && store < arguments + length && strlen(store) < 4096) {
      snprintf(path, sizeof path, "%s/../synced", store);
      /* The store's own directory may not be there yet: the paths are resolved through it. */
      mkdir(store, 0755);
      record = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
      snprintf(control, sizeof control, "%s/../disk", store);
      snprintf(path, sizeof path, "%s/../clock", store);
      fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      if (fd >= 0 && ftruncate(fd, 2 * sizeof(int64_t)) == 0) {
        void *shared = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
        if (shared != MAP_FAILED) wrong_by_ns = shared;
      }
      if (fd >= 0) close(fd);
      return;
    }
  }
}

static char trouble(void) {
  char what = 0;
  if (!control[0]) return 0;
  int saved = errno, fd = open(control, O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (read(fd, &what, 1) != 1) what = 0;
    close(fd);
  }
  errno = saved;
  return what;
}

static int is_full(int fd) {
  struct stat file;
  if (fd <= 2 || !control[0] || fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || trouble() != 'f') return 0;
  errno = ENOSPC;
  return 1;
}

static int synced(int fd, int (*sync)(int)) {
  struct stat file;
  int known = record >= 0 && fstat(fd, &file) == 0 && S_ISREG(file.st_mode);
  if (trouble() == 'l') return 0;
  while (trouble() == 's') {
    struct timespec moment = {0, 5000000};
    nanosleep(&moment, NULL);
  }
  int result = sync(fd);
  if (result == 0 && known) {
    int saved = errno;
    uint64_t line[2] = {file.st_ino, file.st_size};
    /* Unrecorded, it would be cut off, and the database blamed. */
    if (REAL(write)(record, line, sizeof line) != sizeof line) abort();
    errno = saved;
  }
  return result;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }
ssize_t write(int fd, const void *data, size_t size) { return is_full(fd) ? -1 : REAL(write)(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int n) { return is_full(fd) ? -1 : REAL(writev)(fd, parts, n); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  return is_full(fd) ? -1 : REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  return is_full(fd) ? -1 : REAL(pwrite64)(fd, data, size, at);
}
int fallocate(int fd, int mode, off_t at, off_t size) { return is_full(fd) ? -1 : REAL(fallocate)(fd, mode, at, size); }
int fallocate64(int fd, int mode, off64_t at, off64_t size) {
  return is_full(fd) ? -1 : REAL(fallocate64)(fd, mode, at, size);
}

static int64_t wrong_by(void) {
  if (!wrong_by_ns || !wrong_by_ns[0]) return 0;
  int64_t period = wrong_by_ns[1];
  struct timespec since;
  if (period > 0 && REAL(clock_gettime)(CLOCK_MONOTONIC, &since) == 0 &&
      (since.tv_sec * 1000000000LL + since.tv_nsec) / period % 2)
    return 0;
  return wrong_by_ns[0];
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = REAL(clock_gettime)(clock, now);
  int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  int64_t wrong = result == 0 && is_wall ? wrong_by() : 0;
  if (wrong) {
    int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + wrong;
    now->tv_sec = ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
  }
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}
