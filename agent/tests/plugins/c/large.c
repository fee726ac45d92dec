/* An executable, not a library. FORKS: so many children that write 24 MiB each. SHARED: 96 MiB that RLIMIT_DATA does not count. COPY: 24 MiB that four children have as well, and do not write to.
   Then it waits for longer than it is looked at, or for ever (BEYOND), and prints. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef FORKS
#define FORKS 0
#endif

static void fill(size_t mib, int how) {
    char *more = mmap(0, mib << 20, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS, -1, 0);
    if (more == MAP_FAILED)
        exit(9);
    memset(more, 1, mib << 20);
}

int main(void) {
#ifdef SHARED
    fill(96, MAP_SHARED);
#endif
#ifdef COPY
    fill(24, MAP_PRIVATE);
#endif
    for (int i = 0; i < FORKS; i++)
        if (fork() == 0) {
            close(1); /* nobody waits for them */
            close(2);
#ifndef COPY
            fill(24, MAP_PRIVATE);
#endif
            pause();
        }
#ifdef BEYOND
    pause();
#else
    usleep(1600 * 1000);
#endif
    puts("level 7");
    return 0;
}
