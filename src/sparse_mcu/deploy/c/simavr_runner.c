/*
 * Runs a firmware built around avr_harness.c in simavr, one image after the other.
 *
 * usage: simavr_runner MCU ELF START STOP STACK_FLOOR INPUT_BYTES ROWS CLASSES CYCLE_LIMIT
 *
 * START and STOP are the byte addresses of harness_start and harness_stop; STACK_FLOOR is the first data address after the program's
 * variables; a single run may take CYCLE_LIMIT cycles.
 *
 * Standard input holds images of INPUT_BYTES bytes, or ROWS rows of as many for each image: a model that takes rows must return no logits
 * before the last one. For each of them one record goes to standard output, in this machine's byte order:
 *   uint64_t cycles           from the call of model_run to its return, both included
 *   uint32_t stack_bytes      deepest stack in that time, the return address of the call included
 *   int16_t logits[CLASSES]   zeros before the last row of an image
 *
 * Exit status: 0 done; 2 the arguments, the input or the output are at fault; 3 the firmware is: one line on standard error says why.
 *
 * Instructions run one at a time, so the stack pointer is seen after each of them. That sees a frame that is reserved and never written,
 * which a painted stack does not; the paint sees what is written below the stack pointer. The deeper of both counts.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <simavr/sim_avr.h>
#include <simavr/sim_core.h>
#include <simavr/sim_elf.h>

enum { EXIT_USAGE = 2, EXIT_FIRMWARE = 3 };
enum { R24 = 24, PAINT = 0xA5 };

/* OUT SPH, r and OUT SPL, r: 1011 1AAr rrrr AAAA with A = 0x3e, 0x3d. */
enum { OUT_MASK = 0xfe0f, OUT_SPH = 0xbe0e, OUT_SPL = 0xbe0d };

typedef struct {
    avr_t *avr;
    avr_flashaddr_t start;
    avr_flashaddr_t stop;
    uint32_t stack_floor;
    size_t input_bytes;
    size_t rows;
    size_t classes;
    uint64_t cycle_limit;
} board_t;

static char core_message[160]; /* what simavr's core last complained of; empty while all is well */

static void fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(status);
}

/* simavr reports an illegal instruction by a coloured message alone and goes on; remember the message, to stop there. */
static void remember_errors(struct avr_t *avr, const int level, const char *format, va_list arguments)
{
    (void)avr;
    if (level != LOG_ERROR || core_message[0] != '\0')
        return;
    if (strncmp(format, FONT_RED, strlen(FONT_RED)) == 0)
        format += strlen(FONT_RED);
    vsnprintf(core_message, sizeof core_message, format, arguments);
    core_message[strcspn(core_message, "\n")] = '\0';
}

static unsigned long number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 0);
    if (*text == '\0' || *end != '\0')
        fail(EXIT_USAGE, "an argument must be a number, but is '%s'", text);
    return value;
}

static uint16_t data_word(const avr_t *avr, uint32_t address)
{
    return (uint16_t)(avr->data[address] | avr->data[address + 1] << 8);
}

/* The pointer that the last call returned, which must lie in RAM with `bytes` bytes after it. */
static uint32_t returned_pointer(const board_t *board, const char *what, size_t bytes)
{
    uint32_t address = data_word(board->avr, R24);
    if (address <= board->avr->ioend || address + bytes > (size_t)board->avr->ramend + 1)
        fail(EXIT_FIRMWARE, "the %s must lie in RAM, but its address is 0x%04" PRIx32, what, address);
    return address;
}

static uint32_t stack_pointer(const avr_t *avr)
{
    return data_word(avr, R_SPL);
}

/* Run one instruction. False where the stack pointer is half written, between OUT SPH and OUT SPL. */
static bool step(avr_t *avr, bool settled)
{
    uint16_t opcode = (uint16_t)(avr->flash[avr->pc] | avr->flash[avr->pc + 1] << 8);
    avr->run_cycle_count = 0; /* return after one instruction */
    avr->pc = avr_run_one(avr);
    if (core_message[0] != '\0')
        fail(EXIT_FIRMWARE, "the program crashed: %s", core_message);
    if (avr->state != cpu_Running)
        fail(EXIT_FIRMWARE, "the program stopped at address 0x%05" PRIx32 " (simavr state %d)", (uint32_t)avr->pc, avr->state);
    if (avr->pc == 0)
        fail(EXIT_FIRMWARE, "the program jumped to the reset vector");
    if ((opcode & OUT_MASK) == OUT_SPH)
        return false;
    return settled || (opcode & OUT_MASK) == OUT_SPL;
}

/* Run to address `target`; return the lowest stack pointer met on the way. */
static uint32_t run_to(const board_t *board, avr_flashaddr_t target)
{
    avr_t *avr = board->avr;
    const avr_cycle_count_t end = avr->cycle + board->cycle_limit;
    uint32_t lowest = stack_pointer(avr);
    bool settled = true;
    do {
        settled = step(avr, settled);
        if (avr->cycle > end)
            fail(EXIT_FIRMWARE, "a run may take %" PRIu64 " cycles, but the program is still running", board->cycle_limit);
        uint32_t pointer = stack_pointer(avr);
        if (!settled || pointer == lowest)
            continue;
        if (pointer + 1 < board->stack_floor || pointer > avr->ramend)
            fail(EXIT_FIRMWARE, "the stack must stay above the variables, which end at 0x%04" PRIx32 ", but reached 0x%04" PRIx32,
                 board->stack_floor, pointer + 1);
        if (pointer < lowest)
            lowest = pointer;
    } while (avr->pc != target);
    return lowest;
}

/* Lowest address from the floor up to `top` that is no longer painted. */
static uint32_t low_water(const board_t *board, uint32_t top)
{
    uint32_t address = board->stack_floor;
    while (address <= top && board->avr->data[address] == PAINT)
        address++;
    return address;
}

static void write_logits(const board_t *board, bool last_row)
{
    if (!last_row && data_word(board->avr, R24) != 0)
        fail(EXIT_FIRMWARE, "a model must return no logits before the last row of an image");
    const uint32_t logits = last_row ? returned_pointer(board, "logits", board->classes * sizeof(int16_t)) : 0;
    for (size_t i = 0; i < board->classes; i++) {
        const int16_t logit = last_row ? (int16_t)data_word(board->avr, logits + (uint32_t)(2 * i)) : 0;
        fwrite(&logit, sizeof logit, 1, stdout);
    }
}

/* Run the model on an image or a row of one. */
static void run_input(const board_t *board, const uint8_t *image, bool last_row)
{
    avr_t *avr = board->avr;
    memcpy(avr->data + returned_pointer(board, "input", board->input_bytes), image, board->input_bytes);
    const uint32_t top = stack_pointer(avr); /* the next free byte */
    memset(avr->data + board->stack_floor, PAINT, top + 1 - board->stack_floor);

    const avr_cycle_count_t before = avr->cycle;
    const uint32_t lowest = run_to(board, board->stop);
    const uint64_t cycles = avr->cycle - before;
    if (stack_pointer(avr) != top)
        fail(EXIT_FIRMWARE, "model_run must leave the stack as it was, but moved it by %d bytes", (int)stack_pointer(avr) - (int)top);

    const uint32_t painted = low_water(board, top);
    const uint32_t stack_bytes = top + 1 - (painted <= lowest ? painted : lowest + 1);
    fwrite(&cycles, sizeof cycles, 1, stdout);
    fwrite(&stack_bytes, sizeof stack_bytes, 1, stdout);
    write_logits(board, last_row);
}

static avr_t *boot(const char *mcu, const char *elf)
{
    elf_firmware_t firmware;
    memset(&firmware, 0, sizeof firmware);
    avr_global_logger_set(remember_errors);
    if (elf_read_firmware(elf, &firmware) != 0)
        fail(EXIT_USAGE, "the firmware cannot be read: %s", elf);
    avr_t *avr = avr_make_mcu_by_name(mcu);
    if (avr == NULL)
        fail(EXIT_USAGE, "simavr does not know the microcontroller '%s'", mcu);
    avr_init(avr);
    avr_load_firmware(avr, &firmware);
    core_message[0] = '\0';
    return avr;
}

int main(int argc, char **argv)
{
    if (argc != 10)
        fail(EXIT_USAGE, "usage: %s MCU ELF START STOP STACK_FLOOR INPUT_BYTES ROWS CLASSES CYCLE_LIMIT", argv[0]);
    const board_t board = {
        .avr = boot(argv[1], argv[2]),
        .start = (avr_flashaddr_t)number(argv[3]),
        .stop = (avr_flashaddr_t)number(argv[4]),
        .stack_floor = (uint32_t)number(argv[5]),
        .input_bytes = number(argv[6]),
        .rows = number(argv[7]),
        .classes = number(argv[8]),
        .cycle_limit = number(argv[9]),
    };
    uint8_t *image = malloc(board.input_bytes);
    if (image == NULL)
        fail(EXIT_USAGE, "out of memory for an image of %zu bytes", board.input_bytes);
    size_t bytes, row = 0;
    while ((bytes = fread(image, 1, board.input_bytes, stdin)) == board.input_bytes) {
        run_to(&board, board.start);
        row = row % board.rows + 1;
        run_input(&board, image, row == board.rows);
    }
    if (bytes != 0)
        fail(EXIT_USAGE, "the input must be whole images of %zu bytes, but %zu bytes are left over", board.input_bytes, bytes);
    free(image);
    avr_terminate(board.avr);
    if (fflush(stdout) != 0)
        fail(EXIT_USAGE, "the results cannot be written");
    return 0;
}
