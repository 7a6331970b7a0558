/* Loaded into a daemon by tests: kills it in the middle of a call that changes a file.
 *
 * SYNC_ENGINE_CRASH_CALL=PART:N: the N-th call that writes, syncs, cuts, renames or removes a file whose path holds PART, or ends
 * with it where PART ends with $. Of what was to be written, the first half is: a signal may interrupt a write between two pages of memory.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char part[PATH_MAX];
static long left;

__attribute__((constructor)) static void choose(void) {
  const char *text = getenv("SYNC_ENGINE_CRASH_CALL");
  const char *colon = text ? strrchr(text, ':') : NULL;
  if (colon && (size_t)(colon - text) < sizeof part) {
    memcpy(part, text, colon - text);
    left = atol(colon + 1);
  }
  /* Not what this process starts: it is the daemon that is to be killed. */
  unsetenv("LD_PRELOAD");
}

static int meant(const char *path) {
  size_t length = strlen(part), all = strlen(path);
  if (length == 0 || part[length - 1] != '$') return length > 0 && strstr(path, part) != NULL;
  length--;
  return all >= length && memcmp(path + all - length, part, length) == 0;
}

static int due(const char *path) { return meant(path) && __atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) == 0; }

static int due_by_number(int file) {
  char link[64], path[PATH_MAX];
  if (!part[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return due(path);
}

static void end(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t size) {
  if (due_by_number(file)) {
    REAL(write)(file, bytes, size / 2);
    end();
  }
  return REAL(write)(file, bytes, size);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t place) {
  if (due_by_number(file)) {
    REAL(pwrite64)(file, bytes, size / 2, place);
    end();
  }
  return REAL(pwrite64)(file, bytes, size, place);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t place) { return pwrite64(file, bytes, size, place); }

int fsync(int file) {
  if (due_by_number(file)) end();
  return REAL(fsync)(file);
}

int fdatasync(int file) {
  if (due_by_number(file)) end();
  return REAL(fdatasync)(file);
}

int ftruncate64(int file, off64_t size) {
  if (due_by_number(file)) end();
  return REAL(ftruncate64)(file, size);
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int unlink(const char *path) {
  if (due(path)) end();
  return REAL(unlink)(path);
}

int rename(const char *from, const char *to) {
  if (due(to)) end();
  return REAL(rename)(from, to);
}
