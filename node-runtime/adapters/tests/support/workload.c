/* What runs in the containers of the tests: one static program that does as its arguments say, one word after the other. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static volatile sig_atomic_t got;
static void on_signal(int n) { got = n; }

static void say(const char *text) { printf("%s\n", text); fflush(stdout); }

static void cat(const char *path) {
    char line[4096];
    FILE *f = fopen(path, "r");
    if (!f) { printf("%s: %s\n", path, strerror(errno)); fflush(stdout); return; }
    while (fgets(line, sizeof line, f)) fputs(line, stdout);
    fclose(f);
    fflush(stdout);
}

static int tcp(const char *port, int listening) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = htonl(listening ? INADDR_ANY : INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (listening) {
        if (bind(s, (void *)&a, sizeof a) || listen(s, 4)) return -1;
        return s;
    }
    for (int i = 0; i < 500; i++) {
        if (!connect(s, (void *)&a, sizeof a)) return s;
        if (errno != ECONNREFUSED) break;
        close(s);
        s = socket(AF_INET, SOCK_STREAM, 0);
        usleep(10000);
    }
    return -1;
}

int main(int argc, char **argv) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    for (int i = 1; i < argc; i++) {
        char *w = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(w, "time")) {
            printf("time %lld\n", (long long)t.tv_sec * 1000000000LL + t.tv_nsec);
            fflush(stdout);
        } else if (!strcmp(w, "say")) { say(v); i++;
        } else if (!strcmp(w, "part")) { fputs(v, stdout); fflush(stdout); i++;
        } else if (!strcmp(w, "complain")) { fprintf(stderr, "%s\n", v); i++;
        } else if (!strcmp(w, "env")) { for (char **e = environ; *e; e++) say(*e);
        } else if (!strcmp(w, "args")) { for (int k = 0; k < argc; k++) say(argv[k]);
        } else if (!strcmp(w, "cat")) { cat(v); i++;
        } else if (!strcmp(w, "id")) {
            gid_t groups[64];
            int n = getgroups(64, groups);
            printf("uid=%d gid=%d pid=%d groups=", getuid(), getgid(), getpid());
            for (int k = 0; k < n; k++) printf("%s%d", k ? "," : "", groups[k]);
            say("");
        } else if (!strcmp(w, "host")) {
            char name[128];
            gethostname(name, sizeof name);
            say(name);
        } else if (!strcmp(w, "pwd")) {
            char dir[4096];
            say(getcwd(dir, sizeof dir));
        } else if (!strcmp(w, "write")) { /* path, then text */
            int f = open(v, O_WRONLY | O_CREAT | O_TRUNC, 0644);
            const char *text = i + 2 < argc ? argv[i + 2] : "";
            int ok = f >= 0 && write(f, text, strlen(text)) == (ssize_t)strlen(text);
            printf("write %s: %s\n", v, ok ? "ok" : strerror(errno));
            fflush(stdout);
            if (f >= 0) close(f);
            i += 2;
        } else if (!strcmp(w, "size")) {
            struct statfs s;
            if (statfs(v, &s)) say(strerror(errno));
            else { printf("size %s: %lld\n", v, (long long)s.f_blocks * s.f_bsize); fflush(stdout); }
            i++;
        } else if (!strcmp(w, "stat")) {
            struct stat s;
            if (lstat(v, &s)) printf("stat %s: %s\n", v, strerror(errno));
            else printf("stat %s: mode=%o uid=%d gid=%d size=%lld\n", v, s.st_mode, s.st_uid, s.st_gid, (long long)s.st_size);
            fflush(stdout);
            i++;
        } else if (!strcmp(w, "signals")) {
            sigset_t blocked;
            sigprocmask(SIG_BLOCK, NULL, &blocked);
            struct sigaction a;
            sigaction(SIGPIPE, NULL, &a);
            printf("signals: SIGCHLD %s, SIGPIPE %s\n", sigismember(&blocked, SIGCHLD) ? "blocked" : "open",
                   a.sa_handler == SIG_IGN ? "ignored" : "default");
            fflush(stdout);
        } else if (!strcmp(w, "descriptors")) {
            for (int fd = 0; fd < 64; fd++) if (fcntl(fd, F_GETFD) >= 0) printf("fd %d\n", fd);
            fflush(stdout);
        } else if (!strcmp(w, "allocate")) { /* MiB */
            long mib = atol(v);
            for (long k = 0; k < mib; k++) { char *p = malloc(1 << 20); if (p) memset(p, 1, 1 << 20); }
            say("allocated");
            i++;
        } else if (!strcmp(w, "fork")) {
            int made = 0, n = atoi(v);
            for (int k = 0; k < n; k++) { pid_t p = fork(); if (p == 0) { pause(); _exit(0); } if (p < 0) break; made++; }
            printf("forked %d\n", made);
            fflush(stdout);
            i++;
        } else if (!strcmp(w, "trap")) { /* SIGTERM ends it with this code */
            struct sigaction a = {.sa_handler = on_signal};
            for (int n = 1; n < 32; n++) if (n != SIGKILL && n != SIGSTOP && n != SIGCHLD) sigaction(n, &a, NULL);
            say("trapping");
            while (!got) pause();
            printf("caught %d\n", got);
            fflush(stdout);
            return atoi(v);
        } else if (!strcmp(w, "linger")) { /* SIGTERM ends it so many seconds later */
            struct sigaction a = {.sa_handler = on_signal};
            sigaction(SIGTERM, &a, NULL);
            say("lingering");
            while (!got) pause();
            sleep(atoi(v));
            return 0;
        } else if (!strcmp(w, "forever")) { say("forever"); for (;;) pause();
        } else if (!strcmp(w, "count")) { /* a line every 10 ms, this many */
            for (int k = 0; k < atoi(v); k++) { printf("count %d\n", k); fflush(stdout); usleep(10000); }
            i++;
        } else if (!strcmp(w, "flood")) { /* lines of 100 bytes as fast as can be */
            for (int k = 0; k < atoi(v); k++) printf("%099d\n", k);
            fflush(stdout);
            i++;
        } else if (!strcmp(w, "await")) { /* until a file is there */
            while (access(v, F_OK)) usleep(2000);
            i++;
        } else if (!strcmp(w, "serve")) {
            int s = tcp(v, 1);
            say(s >= 0 ? "serving" : strerror(errno));
            int c = accept(s, NULL, NULL);
            if (write(c, "hello", 5) == 5) say("served");
            close(c);
            i++;
        } else if (!strcmp(w, "dial")) {
            char text[16] = "";
            int s = tcp(v, 0);
            if (s < 0) printf("dial: %s\n", strerror(errno));
            else if (read(s, text, sizeof text - 1) >= 0) printf("dialled %s\n", text);
            fflush(stdout);
            i++;
        } else if (!strcmp(w, "abort")) { raise(SIGSEGV); /* ignored by PID 1 unless it comes from the kernel */ *(volatile int *)0 = 0;
        } else if (!strcmp(w, "exit")) { return atoi(v);
        } else { fprintf(stderr, "what is %s?\n", w); return 64; }
    }
    return 0;
}
