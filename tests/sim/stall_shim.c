/* A disk that stalls: preloaded, it makes fsync and fdatasync wait for as long as the file named by STALL_FILE exists.
 *
 *   STALL_FILE=/dev/shm/stall LD_PRELOAD=./stall_shim.so program
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_for_disk(void) {
    const char *file = getenv("STALL_FILE");
    struct timespec rest = {0, 10 * 1000 * 1000};
    while (file && syscall(SYS_faccessat, -100, file, F_OK) == 0) nanosleep(&rest, NULL);
}

int fsync(int fd) {
    wait_for_disk();
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    wait_for_disk();
    return (int)syscall(SYS_fdatasync, fd);
}
