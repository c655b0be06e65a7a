/*
 * A program around a model for the machines of QEMU. It reads images from the file "images" and writes for each of them, or for each row of
 * them if the model takes rows, to "records":
 *   uint32_t ticks            of the machine's timer, from the call of model_run to its return
 *   uint32_t stack_bytes      deepest stack in that time, by paint: from the lowest word that was written up
 *   int16_t logits[CLASSES]   zeros before the last row of an image
 *
 * QEMU lets a fixed time pass with every instruction (-icount), so that ticks count instructions: the call, the model, its return, and
 * the one that reads the timer. The files are QEMU's, by semihosting as Arm defines it and RISC-V took it over.
 *
 * The model has the board's RAM for itself: its variables at the bottom, its stack from the top down. This program keeps its own stack
 * above, and has no variables. Linked with both functions of the model defined as an address, it is the empty program that sizes are
 * measured against.
 *
 * The exit status is one of enum status. Compiled with `-include` of the model's header, with MODEL_INPUT, MODEL_RUN,
 * INPUT_BYTES and CLASSES defined as its names, and with the TIMER of the machine (see machines.py).
 */
#include <stddef.h>
#include <stdint.h>

#define NRF51 1   /* TIMER0 of the nRF51 at 16 MHz: counts up, and keeps its value when it is told to */
#define CMSDK 2   /* TIMER0 of Arm's CMSDK at 25 MHz: counts down */
#define INSTRET 3 /* RISC-V's own counter of instructions */

enum status { DONE = 0, CRASH = 3, OVERRUN = 4, FILES = 5 };
enum operation { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum mode { READ_BINARY = 1, WRITE_BINARY = 5 };
enum { APPLICATION_EXIT = 0x20026 };

#define PAINT 0xa5a5a5a5u

/* The linker's: between the first two is room for the model's stack. */
extern uint32_t stack_floor[], stack_top[], harness_stack_top[];

typedef const int16_t *run_function(void);
typedef uint8_t *input_function(void);

/* A call through these takes the same code whatever they point to. Volatile, else they would be seen through; in flash all the same. */
__attribute__((section(".pointers"))) static input_function *const volatile give_input = MODEL_INPUT;
__attribute__((section(".pointers"))) static run_function *const volatile run_model = MODEL_RUN;

/* The sizes leave as absolute symbols, which take no memory. */
#define TEXT(value) #value
#define EXPORT(symbol, value) __asm__(".global " #symbol "\n\t.set " #symbol ", " TEXT(value))
EXPORT(harness_input_bytes, INPUT_BYTES);
EXPORT(harness_classes, CLASSES);

struct record {
    uint32_t ticks;
    uint32_t stack_bytes;
    int16_t logits[CLASSES];
} __attribute__((packed));

void start(void) __attribute__((noreturn));
static void crash(void) __attribute__((noreturn, used));
static void harness(void) __attribute__((noreturn, used));

/* ---- What differs between the architectures ----
 *
 * call_host: asks QEMU for an operation; returns its result.
 * timed_run: runs the model with its stack pointer at stack_top; returns the ticks that this takes.
 * start:     is where the machine begins.
 */
#ifdef __arm__

static intptr_t call_host(enum operation operation, const void *block)
{
    register intptr_t r0 __asm__("r0") = (intptr_t)operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

#if TIMER == NRF51
enum { TIMER0 = 0x40008000, BITMODE = 0x508, CC = 0x540, BITS_32 = 3 };
#define READ_FIRST "str %[first], [%[timer], #0x40] \n\t" /* any write of 1 keeps the value in CC[0] */
#define READ_LAST "str %[first], [%[timer], #0x44] \n\t"
#elif TIMER == CMSDK
enum { TIMER0 = 0x40000000, VALUE = 0x4, RELOAD = 0x8 };
#define READ_FIRST "ldr %[first], [%[timer], #4] \n\t"
#define READ_LAST "ldr %[timer], [%[timer], #4] \n\t"
#endif

static void write_timer(uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)(TIMER0 + offset) = value;
}

static void start_timer(void)
{
#if TIMER == NRF51
    write_timer(BITMODE, BITS_32);
#else
    write_timer(RELOAD, UINT32_MAX);
    write_timer(VALUE, UINT32_MAX);
#endif
    write_timer(0, 1);
}

static uint32_t timed_run(run_function *run, const int16_t **logits)
{
    register uintptr_t r0 __asm__("r0") = (uintptr_t)run;
    register uint32_t *r1 __asm__("r1") = stack_top;
    uint32_t first = 1, timer = TIMER0, saved;
    __asm__ volatile("mov %[saved], sp \n\t"
                     "mov sp, r1 \n\t" READ_FIRST ".global harness_call, harness_return \n"
                     "harness_call: blx r0 \n"
                     "harness_return: " READ_LAST "mov sp, %[saved]"
                     : "+r"(r0), "+r"(r1), [saved] "=&r"(saved), [first] "+&r"(first), [timer] "+&r"(timer)
                     :
                     : "r2", "r3", "r12", "lr", "memory", "cc");
    *logits = (const int16_t *)r0;
#if TIMER == NRF51
    return *(volatile uint32_t *)(TIMER0 + CC + 4) - *(volatile uint32_t *)(TIMER0 + CC);
#else
    return first - timer;
#endif
}

void start(void)
{
    start_timer();
    harness();
}

/* Where the stack begins, where the program begins, and where it goes at every exception. */
__attribute__((section(".start"), used)) static const void *const vectors[16] = {
    harness_stack_top,   (const void *)start, (const void *)crash, (const void *)crash, (const void *)crash, (const void *)crash,
    (const void *)crash, (const void *)crash, (const void *)crash, (const void *)crash, (const void *)crash, (const void *)crash,
    (const void *)crash, (const void *)crash, (const void *)crash, (const void *)crash,
};

#else /* RISC-V */

#ifdef __riscv_32e
#define OTHER_TEMPORARIES
#else
#define OTHER_TEMPORARIES , "a6", "a7", "t3", "t4", "t5", "t6"
#endif

static intptr_t call_host(enum operation operation, const void *block)
{
    register intptr_t a0 __asm__("a0") = (intptr_t)operation;
    register const void *a1 __asm__("a1") = block;
    __asm__ volatile(".option push \n\t"
                     ".option norvc \n\t"
                     ".balign 16 \n\t" /* the three must lie in one page */
                     "slli x0, x0, 0x1f \n\t"
                     "ebreak \n\t"
                     "srai x0, x0, 7 \n\t"
                     ".option pop"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
    return a0;
}

static uint32_t timed_run(run_function *run, const int16_t **logits)
{
    register uintptr_t a0 __asm__("a0") = (uintptr_t)run;
    register uintptr_t a1 __asm__("a1") = (uintptr_t)stack_top;
    uint32_t first;
    uintptr_t saved;
    __asm__ volatile(".option push \n\t"
                     ".option arch, +zicsr \n\t"
                     "mv %[saved], sp \n\t"
                     "mv sp, a1 \n\t"
                     "csrr %[first], minstret \n\t"
                     "jalr a0 \n\t"
                     "csrr a1, minstret \n\t"
                     "mv sp, %[saved] \n\t"
                     ".option pop"
                     : "+r"(a0), "+r"(a1), [first] "=&r"(first), [saved] "=&r"(saved)
                     :
                     : "ra", "t0", "t1", "t2", "a2", "a3", "a4", "a5" OTHER_TEMPORARIES, "memory");
    *logits = (const int16_t *)a0;
    return a1 - first;
}

__attribute__((naked, section(".start"))) void start(void)
{
    __asm__ volatile(".option push \n\t"
                     ".option arch, +zicsr \n\t"
                     "la sp, harness_stack_top \n\t"
                     "la t0, %0 \n\t"
                     "csrw mtvec, t0 \n\t"
                     "j %1 \n\t"
                     ".option pop"
                     :
                     : "i"(crash), "i"(harness));
}

#endif

/* ---- What is the same ---- */

__attribute__((noreturn)) static void end(const uint32_t block[2])
{
    call_host(SYS_EXIT_EXTENDED, block);
    __builtin_unreachable();
}

__attribute__((noreturn)) static void finish(enum status status)
{
    const uint32_t block[] = {APPLICATION_EXIT, status};
    end(block);
}

/* The target of all exceptions. It needs no stack, which may be what is broken. */
__attribute__((aligned(4))) static void crash(void)
{
    static const uint32_t block[] = {APPLICATION_EXIT, CRASH};
    end(block);
}

static uintptr_t open_file(const char *name, size_t length, enum mode mode)
{
    const uintptr_t block[] = {(uintptr_t)name, mode, length};
    const intptr_t file = call_host(SYS_OPEN, block);
    if (file == -1) {
        finish(FILES);
    }
    return (uintptr_t)file;
}

/* Reads or writes; returns how many of the bytes were not. */
static uintptr_t transfer(enum operation operation, uintptr_t file, const void *bytes, size_t count)
{
    const uintptr_t block[] = {file, (uintptr_t)bytes, count};
    return (uintptr_t)call_host(operation, block);
}

static void run_input(struct record *record)
{
    for (volatile uint32_t *word = stack_floor; word < stack_top; word++) {
        *word = PAINT;
    }
    const int16_t *logits;
    record->ticks = timed_run(run_model, &logits);
    const volatile uint32_t *lowest = stack_floor;
    while (lowest < stack_top && *lowest == PAINT) {
        lowest++;
    }
    if (lowest == stack_floor) {
        finish(OVERRUN);
    }
    record->stack_bytes = (uint32_t)((uintptr_t)stack_top - (uintptr_t)lowest);
    for (size_t i = 0; i < CLASSES; i++) {
        record->logits[i] = logits == 0 ? 0 : logits[i];
    }
}

static void harness(void)
{
    const uintptr_t images = open_file("images", 6, READ_BINARY);
    const uintptr_t records = open_file("records", 7, WRITE_BINARY);
    struct record record;
    while (transfer(SYS_READ, images, give_input(), INPUT_BYTES) == 0) {
        run_input(&record);
        if (transfer(SYS_WRITE, records, &record, sizeof record) != 0) {
            finish(FILES);
        }
    }
    finish(DONE);
}

/* What a compiler may call without being asked to; in a program only if the model's code does. */

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    while (count-- > 0) {
        *out++ = *in++;
    }
    return to;
}

void *memset(void *to, int value, size_t count)
{
    uint8_t *out = to;
    while (count-- > 0) {
        *out++ = (uint8_t)value;
    }
    return to;
}
