/*
 * A plugin of QEMU that adds up what a core of Arm's M profile takes for the instructions that it executes, by the timings that its
 * manual states for each kind: QEMU itself knows how many instructions there are, not how long they take.
 *
 * Arguments: start=ADDRESS, where counting begins (that instruction included), stop=ADDRESS, where it ends (that one excluded),
 * out=FILE, to which each stretch appends its cycles as a uint64_t, and KIND=CYCLES for every kind of enum kind.
 *
 * Of a conditional branch the manual tells two times: whether it was taken shows in where the next block begins. What depends on the
 * values (a division) counts as KIND says, and memory answers at once.
 *
 * QEMU's header for plugins is not part of Debian's packages; what is used of it is declared here (version 1 of the interface).
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef void executed(unsigned int cpu, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, executed *call, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction, executed *call, int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);

EXPORT int qemu_plugin_version = 1;

enum kind {
    ALU,
    MULTIPLY,
    MULTIPLY_ADD,  /* two factors of a register each, and a sum of as much; on cores with DSP instructions also of halves */
    LONG_MULTIPLY, /* a product of 64 bits */
    DIVIDE,
    LOAD,
    NEXT_LOAD, /* a load behind another access to memory that it does not wait for */
    STORE,     /* at a register and a constant */
    STORE_AT,  /* at the sum of two registers */
    TRANSFER,  /* of several registers, besides one cycle for each */
    BRANCH,    /* taken */
    NOT_TAKEN,
    CALL,
    INDIRECT, /* to what a register says */
    RETURN,   /* to what was popped, besides the transfer */
    KINDS,
};
static const char *const names[KINDS] = {
    "alu",   "multiply", "multiply_add", "long_multiply", "divide",    "load", "next_load", "store",
    "store_at", "transfer", "branch",       "not_taken",     "call", "indirect",  "return",
};
static uint64_t cycles_of[KINDS];

/* What an instruction is, and on what the one behind it may have to wait. */
struct decoded {
    enum kind kind;
    unsigned registers; /* of a transfer */
    int pops_pc;
    int base;   /* the register that an access to memory starts at, or -1 */
    int loaded; /* the register that a load writes, or -1 */
};

static uint64_t start, stop, total, begun;
static uint64_t behind_branch; /* the address behind a conditional branch that was just executed, or 0 */
static FILE *out;

static struct decoded plain(enum kind kind)
{
    return (struct decoded){kind, 0, 0, -1, -1};
}

static struct decoded access(enum kind kind, unsigned base, int loaded)
{
    return (struct decoded){kind, 0, 0, (int)base, loaded};
}

static struct decoded transfer(unsigned list, int load)
{
    struct decoded found = plain(TRANSFER);
    found.registers = (unsigned)__builtin_popcount(list);
    found.pops_pc = load && (list & 0x8000) != 0;
    return found;
}

/* The sections of the Armv7-M Architecture Reference Manual that encodings are listed in: A5.2 for 16 bits, A5.3 for 32. */
static struct decoded decode_16(unsigned code)
{
    unsigned top = code >> 12, low = code & 7, base = code >> 3 & 7;
    switch (top) {
    case 0x4:
        if (code < 0x4400) {
            return plain((code >> 6 & 0xf) == 0xd ? MULTIPLY : ALU);
        }
        if (code < 0x4700) { /* registers of both halves: an addition or a move may write the program counter */
            return plain((code >> 8 & 3) != 1 && ((code >> 4 & 8) | low) == 15 ? INDIRECT : ALU);
        }
        return code < 0x4800 ? plain(INDIRECT) : access(LOAD, 15, (int)(code >> 8 & 7));
    case 0x5:
        return (code >> 9 & 7) < 3 ? access(STORE_AT, base, -1) : access(LOAD, base, (int)low);
    case 0x6:
    case 0x7:
    case 0x8:
        return code & 0x800 ? access(LOAD, base, (int)low) : access(STORE, base, -1);
    case 0x9:
        return code & 0x800 ? access(LOAD, 13, (int)(code >> 8 & 7)) : access(STORE, 13, -1);
    case 0xb:
        if ((code & 0xf600) == 0xb400) { /* push with the link register, pop with the program counter */
            unsigned list = code & 0xff, extra = code & 0x100 ? 0x8000 : 0;
            return transfer(list | extra, code & 0x800);
        }
        return plain((code & 0xf500) == 0xb100 ? NOT_TAKEN : ALU);
    case 0xc:
        return transfer(code & 0xff, code & 0x800);
    case 0xd:
        return plain((code >> 8 & 0xf) < 0xe ? NOT_TAKEN : CALL);
    case 0xe:
        return plain(BRANCH);
    default:
        return plain(ALU);
    }
}

static struct decoded decode_32(unsigned first, unsigned second)
{
    unsigned base = first & 0xf;
    int target = (int)(second >> 12);
    if ((first & 0xfe40) == 0xe800) {
        return transfer(second, first & 0x10);
    }
    if ((first & 0xfe40) == 0xe840) { /* two registers, exclusive accesses, and branches by a table */
        return (first & 0xfff0) == 0xe8d0 && (second & 0xffe0) == 0xf000 ? plain(INDIRECT) : transfer(3, 0);
    }
    if ((first & 0xf800) == 0xf000 && (second & 0x8000)) {
        switch (second & 0x5000) {
        case 0x5000:
            return plain(CALL);
        case 0x1000:
            return plain(BRANCH);
        default:
            return plain((first >> 6 & 0xf) < 0xe ? NOT_TAKEN : ALU);
        }
    }
    if ((first & 0xfe10) == 0xf810) {
        return access(LOAD, base, target);
    }
    if ((first & 0xfe10) == 0xf800) {
        return access((first & 0x80) || (second & 0x800) ? STORE : STORE_AT, base, -1);
    }
    if ((first & 0xff80) == 0xfb00) {
        int alone = (first & 0x70) == 0 && (second & 0xf0f0) == 0xf000;
        return plain(alone ? MULTIPLY : MULTIPLY_ADD);
    }
    if ((first & 0xff80) == 0xfb80) {
        unsigned which = first >> 4 & 7;
        return plain(which == 1 || which == 3 ? DIVIDE : LONG_MULTIPLY);
    }
    return plain(ALU);
}

static uint64_t cost(struct decoded now, struct decoded before)
{
    int accessed = before.kind == LOAD || before.kind == STORE;
    if (now.kind == LOAD && accessed && now.base != before.loaded) {
        return cycles_of[NEXT_LOAD];
    }
    return cycles_of[now.kind] + now.registers + (now.pops_pc ? cycles_of[RETURN] : 0);
}

static void add(unsigned int cpu, void *cycles)
{
    (void)cpu;
    total += (uintptr_t)cycles;
}

static void begin(unsigned int cpu, void *data)
{
    (void)cpu, (void)data;
    begun = total;
}

static void end(unsigned int cpu, void *data)
{
    uint64_t cycles = total - begun;
    (void)cpu, (void)data;
    fwrite(&cycles, sizeof cycles, 1, out);
    fflush(out);
}

static void branch(unsigned int cpu, void *behind)
{
    (void)cpu;
    behind_branch = (uintptr_t)behind;
}

static void enter(unsigned int cpu, void *address)
{
    (void)cpu;
    if (behind_branch != 0 && behind_branch != (uintptr_t)address) {
        total += cycles_of[BRANCH] - cycles_of[NOT_TAKEN];
    }
    behind_branch = 0;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    struct decoded before = plain(ALU);
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, enter, 0, (void *)(uintptr_t)qemu_plugin_tb_vaddr(block));
    for (size_t index = 0; index < qemu_plugin_tb_n_insns(block); index++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, index);
        uint64_t address = qemu_plugin_insn_vaddr(instruction);
        size_t size = qemu_plugin_insn_size(instruction);
        uint16_t halves[2] = {0, 0};
        memcpy(halves, qemu_plugin_insn_data(instruction), size < sizeof halves ? size : sizeof halves);
        struct decoded now = size == 4 ? decode_32(halves[0], halves[1]) : decode_16(halves[0]);
        if (address == start) {
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, begin, 0, NULL);
        }
        if (address == stop) {
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, end, 0, NULL);
        }
        qemu_plugin_register_vcpu_insn_exec_cb(instruction, add, 0, (void *)(uintptr_t)cost(now, before));
        if (now.kind == NOT_TAKEN) {
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, branch, 0, (void *)(uintptr_t)(address + size));
        }
        before = now;
    }
}

static int set(const char *name, const char *value)
{
    if (strcmp(name, "out") == 0) {
        out = fopen(value, "wb");
        return out == NULL;
    }
    uint64_t number = strtoull(value, NULL, 0);
    if (strcmp(name, "start") == 0) {
        start = number;
        return 0;
    }
    if (strcmp(name, "stop") == 0) {
        stop = number;
        return 0;
    }
    for (int kind = 0; kind < KINDS; kind++) {
        if (strcmp(name, names[kind]) == 0) {
            cycles_of[kind] = number;
            return 0;
        }
    }
    return 1;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int index = 0; index < argc; index++) {
        char *equals = strchr(argv[index], '=');
        if (equals == NULL) {
            return 1;
        }
        *equals = '\0';
        if (set(argv[index], equals + 1)) {
            return 1;
        }
    }
    if (out == NULL) {
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
