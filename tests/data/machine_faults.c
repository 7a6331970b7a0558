/* Loaded into daemons and writers by tests: a machine whose disk is full or broken, whose files may not be opened, or whose clock is
 * wrong, for as long as the test says so.
 *
 * SYNC_ENGINE_MACHINE=FILE: the file is shared with the test, which writes into it: see struct machine. A PART means the files whose
 * path holds it.
 */
#define _GNU_SOURCE
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
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PART 504

static struct machine {
  /* How far the clock is off, in milliseconds. */
  int64_t clock;
  /* Files that cannot grow. */
  char full[PART];
  /* Files that can neither be read nor written. */
  char broken[PART];
  /* Files that may not be written. */
  char read_only[PART];
  /* Files that may not be opened. */
  char denied[PART];
} *machine;

__attribute__((constructor)) static void share(void) {
  const char *path = getenv("SYNC_ENGINE_MACHINE");
  int file = path ? open(path, O_RDWR) : -1;
  if (file < 0) return;
  void *shared = mmap(NULL, sizeof *machine, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (shared != MAP_FAILED) machine = shared;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_meant(int file, const char *part) {
  char link[64], path[PATH_MAX];
  if (!machine || !part[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, part) != NULL;
}

static int fails(int code) {
  errno = code;
  return -1;
}

/* 0, or why a file cannot be written so far. */
static int refused(int file, off64_t end) {
  struct stat64 now;
  if (!machine) return 0;
  if (is_meant(file, machine->broken)) return EIO;
  if (is_meant(file, machine->full) && fstat64(file, &now) == 0 && end > now.st_size) return ENOSPC;
  return 0;
}

ssize_t write(int file, const void *bytes, size_t size) {
  int code = 0;
  if (machine && (machine->full[0] || machine->broken[0])) code = refused(file, lseek64(file, 0, SEEK_CUR) + (off64_t)size);
  return code ? fails(code) : REAL(write)(file, bytes, size);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t place) {
  int code = refused(file, place + (off64_t)size);
  return code ? fails(code) : REAL(pwrite64)(file, bytes, size, place);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t place) { return pwrite64(file, bytes, size, place); }

ssize_t read(int file, void *bytes, size_t size) {
  if (machine && is_meant(file, machine->broken)) return fails(EIO);
  return REAL(read)(file, bytes, size);
}

ssize_t pread64(int file, void *bytes, size_t size, off64_t place) {
  if (machine && is_meant(file, machine->broken)) return fails(EIO);
  return REAL(pread64)(file, bytes, size, place);
}

ssize_t pread(int file, void *bytes, size_t size, off_t place) { return pread64(file, bytes, size, place); }

int ftruncate64(int file, off64_t size) {
  int code = refused(file, size);
  return code ? fails(code) : REAL(ftruncate64)(file, size);
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

static int may_open(const char *path, int flags) {
  if (!machine) return 1;
  if (machine->denied[0] && strstr(path, machine->denied)) return 0;
  return !(machine->read_only[0] && strstr(path, machine->read_only) && (flags & O_ACCMODE) != O_RDONLY);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return may_open(path, flags) ? REAL(open64)(path, flags, mode) : fails(EACCES);
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return may_open(path, flags) ? REAL(open)(path, flags, mode) : fails(EACCES);
}

int clock_gettime(clockid_t which, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = REAL(clock_gettime);
  int result = real(which, now);
  if (result == 0 && machine && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
    int64_t millis = now->tv_sec * 1000 + now->tv_nsec / 1000000 + machine->clock;
    now->tv_nsec = (millis % 1000) * 1000000 + now->tv_nsec % 1000000;
    now->tv_sec = millis / 1000;
  }
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *place) {
  struct timespec precise;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return (time_t)-1;
  if (place) *place = precise.tv_sec;
  return precise.tv_sec;
}
