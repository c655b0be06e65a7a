/*
 * The kernels of sparse-mcu: the integer arithmetic of docs/integer-arithmetic.md in C99, for cores from 8 bits up.
 *
 * Code generation pastes the sections that a network needs, in this order, into its source; a section opens with a line
 * "kernel NAME" or "kernel NAME (uses NAMES)". Compiled as it stands, the file has every kernel.
 *
 * Tensors are height, width, channels; places within one are uint16_t. A layer is a constant descriptor in flash. The weights of a
 * convolution are a stream of bytes in flash, read through BYTE, in the order in which its kernel sums_... takes them; its heads hold
 * the bias, the multiplier and the shift of every output channel. No sum or product overflows an int32: quant/verify.py has proved
 * it; and no sum of a network whose SUM_BYTES is 3 overflows 24 bits.
 */

/* kernel prelude */
#include <stdint.h>

#ifdef __AVR__
#include <avr/pgmspace.h>
#define FLASH PROGMEM
#define BYTE(address) pgm_read_byte(address)
/* The address is computed inside, and volatile: else gcc hoists it out of loops and runs out of registers. */
#define FIELD(layer, field) \
    __extension__({ \
        uint16_t field_; \
        __asm__ volatile("movw r30, %1 \n\t adiw r30, %2 \n\t lpm %A0, Z+ \n\t lpm %B0, Z" \
                         : "=&r"(field_) \
                         : "r"(layer), "I"(__builtin_offsetof(__typeof__(*(layer)), field)) \
                         : "r30", "r31"); \
        field_; \
    })
#else
#define FLASH
#define BYTE(address) (*(address))
#define FIELD(layer, field) ((layer)->field)
#endif

/* A kernel is neither inlined nor cloned, so that its code and stack are what was measured for the core. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8
#define KERNEL static __attribute__((noipa))
#elif defined(__GNUC__) && !defined(__clang__)
#define KERNEL static __attribute__((noinline, noclone))
#else
#define KERNEL static
#endif
#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* kernel standalone */
#ifndef SUM_BYTES /* generated code says all of them before its first kernel */
#define SUM_BYTES 4
#define PADDED 1
#define PAIRED 1
#endif
#ifndef LINES
#define LINES 2
#endif

/* kernel stream */
/*
 * Rows on their way through the first layers of a network. A line holds the rows of a tensor that its layer still needs. As soon as it
 * is full, the layer computes a row of its output, which goes to the next line. The last line has room for all rows, and no layer.
 */
struct line {
    uint8_t *rows;
    uint16_t row_bytes;
    uint16_t first;  /* bytes before the first row: rows of zeros */
    uint16_t full;   /* bytes of all rows that are held; 0 of the last line */
    uint16_t kept;   /* bytes at the end that the next row of the output needs as well */
    uint16_t height; /* rows of the tensor */
    uint16_t total;  /* the same with the rows of zeros that are needed behind the last one */
};

static struct progress {
    uint16_t held; /* bytes, once a row has come */
    uint16_t come; /* rows, and those of zeros behind the last one */
} progress[LINES];

/* Returns where the next row of a line goes. */
KERNEL uint8_t *row_place(const struct line *lines, uint8_t which)
{
    const struct line *line = lines + which;
    return (uint8_t *)FIELD(line, rows) + (progress[which].come == 0 ? FIELD(line, first) : progress[which].held);
}

/* Copies bytes to a place below them. Volatile, here and there: else compilers make calls of memmove and memset of these. */
KERNEL void move_rows(volatile uint8_t *to, const uint8_t *from, uint16_t count)
{
    for (; count > 0; count--) {
        *to++ = *from++;
    }
}

KERNEL void clear_rows(volatile uint8_t *to, uint16_t count)
{
    for (; count > 0; count--) {
        *to++ = 0;
    }
}

/* Takes in the row that was written at its place in a line. */
KERNEL void take_row(const struct line *line, struct progress *state)
{
    if (state->come == 0) {
        state->held = FIELD(line, first);
        clear_rows((uint8_t *)FIELD(line, rows), state->held);
    }
    state->held = (uint16_t)(state->held + FIELD(line, row_bytes));
    state->come++;
}

/*
 * Takes in the row that was written at its place in the first line, if computed is LINES, or else the one that the layer of the line
 * computed has written in the next one. Returns the number of a line whose layer has to compute a row now: of several the last, so
 * that no line gets a row without room for it; that of the last line if it has all its rows; or LINES if another row has to come first.
 */
KERNEL uint8_t stream(const struct line *lines, uint8_t computed)
{
    const struct line *line = lines;
    struct progress *state = progress;
    if (computed < LINES) {
        line += computed;
        state += computed;
        uint8_t *rows = (uint8_t *)FIELD(line, rows);
        uint16_t kept = FIELD(line, kept);
        move_rows(rows, rows + (uint16_t)(state->held - kept), kept);
        state->held = kept;
        line++;
        state++;
    }
    take_row(line, state);
    while (state->held != FIELD(line, full)) {
        if (state->come >= FIELD(line, height) && state->come < FIELD(line, total)) {
            clear_rows((uint8_t *)FIELD(line, rows) + state->held, FIELD(line, row_bytes));
            take_row(line, state);
        } else if (state != progress) {
            line--;
            state--;
        } else if (state->come < FIELD(line, total)) {
            return LINES;
        } else {
            for (state += LINES; state != progress;) {
                (--state)->come = 0;
            }
            return LINES - 1;
        }
    }
    return (uint8_t)(state - progress);
}

/* kernel scaled */
/* Returns (product + half) >> shift, half being 1 << shift >> 1. On an AVR it changes no register but those of its arguments. */
#ifdef __AVR__ /* has no shift by several bits; a shift by eight is only moves */
KERNEL int32_t scaled(int32_t product, uint8_t shift)
{
    register int32_t value __asm__("r22") = product; /* where both are already: nothing is moved */
    register uint8_t rest __asm__("r20") = shift;
    __asm__ volatile(
            "subi r20, 1 \n\t"
            "brcs 5f \n" /* half up: ((product >> (shift - 1)) + 1) >> 1 */
            "1: subi r20, 8 \n\t"
            "brcs 2f \n\t"
            "mov r22, r23 \n\t"
            "mov r23, r24 \n\t"
            "mov r24, r25 \n\t"
            "lsl r25 \n\t"
            "sbc r25, r25 \n\t"
            "rjmp 1b \n"
            "2: subi r20, -8 \n\t"
            "breq 4f \n"
            "3: asr r25 \n\t"
            "ror r24 \n\t"
            "ror r23 \n\t"
            "ror r22 \n\t"
            "dec r20 \n\t"
            "brne 3b \n"
            "4: asr r25 \n\t"
            "ror r24 \n\t"
            "ror r23 \n\t"
            "ror r22 \n\t"
            "adc r22, __zero_reg__ \n\t"
            "adc r23, __zero_reg__ \n\t"
            "adc r24, __zero_reg__ \n\t"
            "adc r25, __zero_reg__ \n"
            "5:"
            : "+r"(value), "+r"(rest));
    return value;
}
#else
INLINE int32_t scaled(int32_t product, uint8_t shift)
{
    return (product + (int32_t)((uint32_t)1 << shift >> 1)) >> shift;
}
#endif

/* Writes value, clamped to uint8, or to int16 if wide, at out; returns the next place. */
INLINE uint8_t *clamped(uint8_t *out, int32_t value, uint16_t wide)
{
    if (wide) {
        value = value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value;
        *(int16_t *)(void *)out = (int16_t)value;
        return out + 2;
    }
    *out = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); /* clang for bare cores has an unsigned UINT8_MAX */
    return out + 1;
}

/* kernel requantise (uses scaled) */
#if defined(__AVR__) && SUM_BYTES == 3
typedef __int24 sum_t;
#else
typedef int32_t sum_t;
#endif

/* What brings the sum of an output channel back to a small integer. */
struct head {
    sum_t bias;
    uint8_t multiplier, shift;
};

/* Brings the sums of so many channels back to small integers, at out; returns the next place. */
KERNEL uint8_t *requantise(uint8_t *out, const sum_t *sums, const struct head *heads, uint16_t channels, uint16_t wide)
{
#ifdef __AVR_HAVE_MUL__
    register uint8_t *place __asm__("r20") = out;
    register uint16_t rest __asm__("r16") = channels;
    register uint8_t flag __asm__("r18") = (uint8_t)wide;
    __asm__ volatile(
        "push r28 \n\t"
        "push r29 \n\t"
        "movw r28, r20 \n\t"
        "bst r18, 0 \n"
        "1: ld r12, X+ \n\t"
        "ld r13, X+ \n\t"
        "ld r14, X+ \n\t"
#if SUM_BYTES == 4
        "ld r15, X+ \n\t"
#endif
        "lpm r0, Z+ \n\t"
        "add r12, r0 \n\t"
        "lpm r0, Z+ \n\t"
        "adc r13, r0 \n\t"
        "lpm r0, Z+ \n\t"
        "adc r14, r0 \n\t"
#if SUM_BYTES == 4
        "lpm r0, Z+ \n\t"
        "adc r15, r0 \n\t"
#endif
        "brts 2f \n\t"
        "brpl 2f \n\t"
        "clr r22 \n\t" /* below zero: a ReLU has nothing to compute */
        "adiw r30, 2 \n\t"
        "rjmp 8f \n"
        "2: lpm r18, Z+ \n\t"
        "lpm r20, Z+ \n\t"
        "mul r12, r18 \n\t"
        "movw r22, r0 \n\t"
        "mul r14, r18 \n\t"
        "movw r24, r0 \n\t"
#if SUM_BYTES == 4
        "mul r15, r18 \n\t"
        "add r25, r0 \n\t"
#endif
        "mul r13, r18 \n\t"
        "add r23, r0 \n\t"
        "adc r24, r1 \n\t"
        "clr __zero_reg__ \n\t"
        "adc r25, __zero_reg__ \n\t"
        "brts 9f \n\t"
        "subi r20, 1 \n\t" /* half up: ((product >> (shift - 1)) + 1) >> 1; the product is not negative */
        "brcc 3f \n\t"
        "or r23, r24 \n\t"
        "or r23, r25 \n\t"
        "breq 8f \n"
        "7: ldi r22, 255 \n"
        "8: st Y+, r22 \n"
        "11: subi r16, 1 \n\t"
        "sbci r17, 0 \n\t"
        "brne 1b \n\t"
        "rjmp 12f \n"
        "3: sbrs r20, 4 \n\t" /* by two bytes, by one byte */
        "rjmp 4f \n\t"
        "movw r22, r24 \n\t"
        "clr r24 \n\t"
        "clr r25 \n"
        "4: sbrs r20, 3 \n\t"
        "rjmp 5f \n\t"
        "mov r22, r23 \n\t"
        "mov r23, r24 \n\t"
        "mov r24, r25 \n\t"
        "clr r25 \n"
        "5: or r24, r25 \n\t"
        "brne 7b \n\t"
        "ldi r18, 1 \n\t" /* by the rest of 0 to 7: times 128 >> rest, then by a byte */
        "sbrs r20, 1 \n\t"
        "ldi r18, 4 \n\t"
        "sbrs r20, 0 \n\t"
        "lsl r18 \n\t"
        "sbrs r20, 2 \n\t"
        "swap r18 \n\t"
        "mul r23, r18 \n\t"
        "movw r24, r0 \n\t"
        "mul r22, r18 \n\t"
        "mov r22, r1 \n\t"
        "lsl r0 \n\t"
        "clr __zero_reg__ \n\t"
        "adc r22, r24 \n\t"
        "adc r25, __zero_reg__ \n\t"
        "brne 7b \n\t"
        "rjmp 8b \n"
        "9: \n\t"
#if SUM_BYTES == 3
        "sbrc r14, 7 \n\t" /* the sum's upper byte, were there one: the multiplier less from above */
        "sub r25, r18 \n\t"
#endif
        "%~call %x[scaled] \n\t"
        "mov r18, r23 \n\t" /* the two upper bytes must be the sign of the lower ones */
        "lsl r18 \n\t"
        "sbc r18, r18 \n\t"
        "cp r24, r18 \n\t"
        "cpc r25, r18 \n\t"
        "breq 10f \n\t"
        "ldi r22, 255 \n\t"
        "ldi r23, 127 \n\t"
        "sbrs r25, 7 \n\t"
        "rjmp 10f \n\t"
        "com r22 \n\t"
        "com r23 \n"
        "10: st Y+, r22 \n\t"
        "st Y+, r23 \n\t"
        "rjmp 11b \n"
        "12: movw r20, r28 \n\t"
        "pop r29 \n\t"
        "pop r28"
        : "+r"(place), "+x"(sums), "+z"(heads), "+r"(rest), "+r"(flag)
        : [scaled] "i"(scaled)
        : "r12", "r13", "r14", "r15", "r22", "r23", "r24", "r25", "memory");
    return place;
#else
    for (const sum_t *end = sums + channels; sums != end; heads++) {
#ifdef __AVR__
        struct head copy;
        for (uint8_t byte = 0; byte < sizeof copy; byte++) {
            ((uint8_t *)&copy)[byte] = BYTE((const uint8_t *)heads + byte);
        }
        const struct head *head = &copy;
#else
        const struct head *head = heads;
#endif
        int32_t sum = *sums++ + head->bias;
        if (sum < 0 && !wide) { /* a ReLU has nothing to compute */
            *out++ = 0;
        } else {
            out = clamped(out, scaled(sum * head->multiplier, head->shift), wide);
        }
    }
    return out;
#endif
}

/* kernel keep (uses requantise) */
#ifdef __AVR__
/* Assembly: keeps the sum in three or four registers at Z + offset; if T is set, only if it is larger than what is there. */
#if SUM_BYTES == 3
#define KEEP(a, b, c, d, offset) \
    "brtc 8f \n\t" \
    "ldd r16, Z+" #offset " \n\t" \
    "cp r16, " #a " \n\t" \
    "ldd r16, Z+" #offset "+1 \n\t" \
    "cpc r16, " #b " \n\t" \
    "ldd r16, Z+" #offset "+2 \n\t" \
    "cpc r16, " #c " \n\t" \
    "brge 9f \n" \
    "8: std Z+" #offset ", " #a " \n\t" \
    "std Z+" #offset "+1, " #b " \n\t" \
    "std Z+" #offset "+2, " #c " \n" \
    "9: \n\t"
#define TOP_BYTE(instruction)
#else
#define KEEP(a, b, c, d, offset) \
    "brtc 8f \n\t" \
    "ldd r16, Z+" #offset " \n\t" \
    "cp r16, " #a " \n\t" \
    "ldd r16, Z+" #offset "+1 \n\t" \
    "cpc r16, " #b " \n\t" \
    "ldd r16, Z+" #offset "+2 \n\t" \
    "cpc r16, " #c " \n\t" \
    "ldd r16, Z+" #offset "+3 \n\t" \
    "cpc r16, " #d " \n\t" \
    "brge 9f \n" \
    "8: std Z+" #offset ", " #a " \n\t" \
    "std Z+" #offset "+1, " #b " \n\t" \
    "std Z+" #offset "+2, " #c " \n\t" \
    "std Z+" #offset "+3, " #d " \n" \
    "9: \n\t"
#define TOP_BYTE(instruction) instruction
#endif
#endif
/* Keeps sum at place; if larger, only if it is larger than what is there. */
INLINE void keep(sum_t *place, sum_t sum, uint8_t larger)
{
    if (!larger || sum > *place) {
        *place = sum;
    }
}

/* kernel convolve (uses requantise) */
/*
 * Adds up the products of a window's taps with the weights of every output channel, without the bias: of the windows that begin at
 * a and b, which may be the same. Keeps the sums of a at sums, those of b window.pitch bytes behind; where larger is 1, or both keep
 * theirs at one place, only if they are larger than what is there. sums has room for an even number of channels.
 * With b = 0, of the window at a alone; where PADDED is 1, of the part of it that edge says.
 */
typedef void sums_kernel(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger);

/* A window of a convolution: rows of taps. */
struct window {
    uint16_t rows;
    uint16_t taps, skip;      /* bytes of a row, and from its last tap to the next row */
    uint16_t channels, pairs; /* of the output; half as many, rounded up */
    uint16_t pitch;           /* bytes from the sums of the first window of a pair to those of the second; 0: the larger ones stay */
};

/* A convolution, and the max pool behind it if there is one: of a pool's windows only the largest sums are requantised. */
struct conv {
    struct window window;
    void (*sums)(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger); /* sums_... */
    const uint8_t *weights;
    const struct head *heads;
    uint16_t height, width;  /* of the output */
    uint16_t across, below;  /* bytes of the input from the windows of an output to those of the next one, of the next row */
    uint16_t right, down;    /* from a window to the next one of a pool, in its row and in its column */
#if PADDED
    uint16_t top, left;      /* rows and columns of padding before the input */
    uint16_t in_height, in_width;
    uint16_t stride_down, stride_right;
    uint16_t columns;        /* of a window */
    uint16_t weights_pixel;  /* weights of a column of a window */
    uint16_t pixel;          /* bytes of a column of the input */
#endif
    uint8_t pool_height, pool_width; /* windows of an output */
    uint8_t paired;                  /* 1: windows are summed up in pairs */
    uint8_t wide;                    /* 1: outputs are int16, 0: uint8 */
};

static struct window window; /* of the layer that is being computed */

#if PADDED
/* What lies inside of a window that sticks out of the input. */
static struct {
    uint16_t rows, above, below;                        /* inside, before the input, behind it */
    uint16_t taps, before, skip;                        /* of a row: bytes inside, before the input; from the last tap to the next row */
    uint16_t weights_first, weights_skip, weights_rest; /* weights of taps outside: before the first row, between rows, behind */
} edge;
#define ALONE(field) (edge.field)

/* Of count places from first on: sets how many lie before 0, and returns how many lie from there to end. */
INLINE uint16_t places_inside(int16_t first, uint16_t count, uint16_t end, uint16_t *before)
{
    uint16_t rest = (uint16_t)(end - (uint16_t)first);
    *before = first < 0 ? (uint16_t)-first : 0;
    return (uint16_t)((rest < count ? rest : count) - *before);
}

/* Sets edge for the window that begins at row top and column left; returns how many bytes behind its corner its first tap is. */
KERNEL uint16_t clip(const struct conv *conv, int16_t top, int16_t left)
{
    uint16_t before, weights_row = (uint16_t)((unsigned)conv->columns * conv->weights_pixel);
    uint16_t row_bytes = (uint16_t)(window.taps + window.skip);
    edge.rows = places_inside(top, window.rows, conv->in_height, &edge.above);
    uint16_t within = places_inside(left, conv->columns, conv->in_width, &before);
    edge.below = (uint16_t)(window.rows - edge.rows - edge.above);
    edge.taps = (uint16_t)((unsigned)within * conv->pixel);
    edge.skip = (uint16_t)(row_bytes - edge.taps);
    edge.before = (uint16_t)((unsigned)before * conv->pixel);
    edge.weights_first = (uint16_t)((unsigned)edge.above * weights_row + (unsigned)before * conv->weights_pixel);
    edge.weights_skip = (uint16_t)((unsigned)(conv->columns - within) * conv->weights_pixel);
    edge.weights_rest = (uint16_t)((unsigned)(window.rows - edge.rows) * weights_row);
    return (uint16_t)((unsigned)edge.above * row_bytes + edge.before);
}

/* Whether the window that begins at row top and column left lies within the input. */
INLINE uint8_t lies_inside(const struct conv *conv, int16_t top, int16_t left)
{
    return top >= 0 && (uint16_t)((uint16_t)top + window.rows) <= conv->in_height && left >= 0 &&
           (uint16_t)((uint16_t)left + conv->columns) <= conv->in_width;
}
#else
#define ALONE(field) (window.field)
#endif

/* Computes a layer; sums is scratch: room for a sum of every channel (an even number), for two of each where outputs are paired. */
KERNEL void convolve(const struct conv *layer, const uint8_t *in, uint8_t *out, sum_t *sums)
{
#ifdef __AVR__
    struct conv copy; /* from flash every field takes longer to read */
    for (uint8_t byte = 0; byte < sizeof copy; byte++) {
        ((uint8_t *)&copy)[byte] = BYTE((const uint8_t *)layer + byte);
    }
    const struct conv *conv = &copy;
#else
    const struct conv *conv = layer;
#endif
    for (uint8_t byte = 0; byte < sizeof window; byte++) { /* volatile: else compilers call memcpy */
        ((volatile uint8_t *)&window)[byte] = ((const uint8_t *)&conv->window)[byte];
    }
    sum_t *place = sums, *pending_place = sums;
    const uint8_t *pending = 0; /* a window that waits for another one, since two share the work of reading weights */
    uint8_t larger = 0;         /* 1: the sums of another window of the same output are there */
    unsigned row = 0;           /* where windows begin in the input, modulo: padding lies before it */
#if PADDED
    int16_t top = (int16_t)-(int16_t)conv->top, rows_top = top, left, columns_left;
    row -= (unsigned)conv->top * (uint16_t)(window.taps + window.skip) + (unsigned)conv->left * conv->pixel;
#endif
    for (uint16_t y = conv->height; y > 0; y--, row += conv->below) {
        unsigned column = row;
#if PADDED
        left = (int16_t)-(int16_t)conv->left;
        rows_top = top;
#endif
        for (uint16_t x = conv->width; x > 0; x--, column += conv->across) {
            unsigned line = column;
#if PADDED
            columns_left = left;
            top = rows_top;
#endif
            for (uint8_t down = conv->pool_height; down > 0; down--, line += conv->down) {
                unsigned corner = line;
#if PADDED
                left = columns_left;
#endif
                for (uint8_t right = conv->pool_width; right > 0; right--, corner += conv->right) {
                    unsigned begin = corner;
#if PADDED
                    uint8_t lone = !conv->paired || !lies_inside(conv, top, left);
                    if (lone) {
                        begin += clip(conv, top, left);
                    }
                    left = (int16_t)((uint16_t)left + conv->stride_right);
#else
                    uint8_t lone = !conv->paired;
#endif
                    const uint8_t *a = in + begin, *b = 0;
                    sum_t *at = place;
                    if (PAIRED && !lone) {
                        if (pending == 0) {
                            pending = a;
                            pending_place = place;
                            continue;
                        }
                        b = a;
                        a = pending;
                        at = pending_place;
                        pending = 0;
                    }
                    conv->sums(a, b, conv->weights, at, larger);
                    larger = window.pitch == 0;
                }
#if PADDED
                top = (int16_t)((uint16_t)top + conv->stride_down);
#endif
            }
            if (PAIRED && window.pitch != 0 && place == sums && (x > 1 || y > 1)) { /* the first output of two */
                place = (sum_t *)(void *)((uint8_t *)sums + window.pitch);
                continue;
            }
            if (PAIRED && pending != 0) { /* as if there were two such windows */
                window.pitch = 0;
                conv->sums(pending, pending, conv->weights, pending_place, larger);
                window.pitch = conv->window.pitch;
                pending = 0;
            }
            out = requantise(out, sums, conv->heads, window.channels, conv->wide);
            if (PAIRED && place != sums) {
                out = requantise(out, place, conv->heads, window.channels, conv->wide);
            }
            place = sums;
            larger = 0;
        }
    }
}

/* kernel kept (uses convolve, keep) */
#ifdef __AVR__
#define SYMBOL(field) [field] "i"(&window.field)
#define LONE_SYMBOL(field) [field] "i"(&ALONE(field))
#define LOAD(register, field) "lds " #register ", %[" #field "] \n\t"
#define LOAD2(low, high, field) "lds " #low ", %[" #field "] \n\t lds " #high ", %[" #field "]+1 \n\t"
/* Assembly: adds tap * weight (r18), unsigned and signed, to a sum. */
#ifdef __AVR_HAVE_MUL__
#define ADD_PRODUCT(tap, a, b, c, d) \
    "mulsu r18, " #tap " \n\t" \
    "sbc r17, r17 \n\t" /* mulsu leaves the product's sign in the carry */ \
    "add " #a ", r0 \n\t" \
    "adc " #b ", r1 \n\t" \
    "adc " #c ", r17 \n\t" TOP_BYTE("adc " #d ", r17 \n\t")
#else /* as if the weight were unsigned, bit by bit of the tap; then 256 * tap less if it was negative */
#define ADD_PRODUCT(tap, a, b, c, d) \
    "mov r0, " #tap " \n\t" \
    "clr r1 \n\t" \
    "ldi r17, 8 \n\t" \
    "lsr r0 \n" \
    "6: brcc 7f \n\t" \
    "add r1, r18 \n" \
    "7: ror r1 \n\t" \
    "ror r0 \n\t" \
    "dec r17 \n\t" \
    "brne 6b \n\t" \
    "sbrc r18, 7 \n\t" \
    "sub r1, " #tap " \n\t" \
    "mov r17, r1 \n\t" \
    "lsl r17 \n\t" \
    "sbc r17, r17 \n\t" \
    "add " #a ", r0 \n\t" \
    "adc " #b ", r1 \n\t" \
    "adc " #c ", r17 \n\t" TOP_BYTE("adc " #d ", r17 \n\t")
#endif
/* Assembly: counts r21:r20 down as two nested loops, dec r20 and dec r21: one more round of the outer one unless r20 is 0. */
#define NESTED "cpi r20, 1 \n\t sbci r21, 255 \n\t"
#endif

/* kernel sums_pairs (uses kept) */
/* The weights of two channels lie together, tap by tap; the last channel of an odd number is joined by zeros. */
#ifdef __AVR__
INLINE void pairs_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    register uint8_t flags __asm__("r19") = larger;
    register sum_t *place __asm__("r22") = sums;
    register uint16_t pairs __asm__("r24") = window.pairs;
    __asm__ volatile(
        "bst r19, 0 \n"
        "1: movw r12, r26 \n\t"
        "clr r2 \n\t"
        "clr r3 \n\t"
        "movw r4, r2 \n\t"
        "movw r6, r2 \n\t"
        "movw r8, r2 \n\t"
        LOAD(r15, rows)
        "2: " LOAD2(r20, r21, taps) NESTED
        "3: ld r16, X+ \n\t"
        "lpm r18, Z+ \n\t"
        ADD_PRODUCT(r16, r2, r3, r4, r5)
        "lpm r18, Z+ \n\t"
        ADD_PRODUCT(r16, r6, r7, r8, r9)
        "dec r20 \n\t"
        "brne 3b \n\t"
        "dec r21 \n\t"
        "brne 3b \n\t"
        LOAD2(r16, r17, skip)
        "add r26, r16 \n\t"
        "adc r27, r17 \n\t"
#if PADDED
        LOAD2(r16, r17, weights_skip)
        "add r30, r16 \n\t"
        "adc r31, r17 \n\t"
#endif
        "dec r15 \n\t"
        "breq 5f \n\t"
        "rjmp 2b \n"
        "5: \n\t"
#if PADDED
        LOAD2(r16, r17, weights_rest)
        "add r30, r16 \n\t"
        "adc r31, r17 \n\t"
#endif
        "movw r26, r12 \n\t"
        "movw r20, r30 \n\t"
        "movw r30, r22 \n\t"
        KEEP(r2, r3, r4, r5, 0)
#if SUM_BYTES == 3
        KEEP(r6, r7, r8, r9, 3)
        "adiw r30, 6 \n\t"
#else
        KEEP(r6, r7, r8, r9, 4)
        "adiw r30, 8 \n\t"
#endif
        "movw r22, r30 \n\t"
        "movw r30, r20 \n\t"
        "sbiw r24, 1 \n\t"
        "breq 4f \n\t"
        "rjmp 1b \n"
        "4: clr __zero_reg__"
        : "+x"(a), "+z"(weights), "+r"(place), "+r"(pairs)
        : "r"(flags), LONE_SYMBOL(rows), LONE_SYMBOL(taps), LONE_SYMBOL(skip)
#if PADDED
        , LONE_SYMBOL(weights_skip), LONE_SYMBOL(weights_rest)
#endif
        : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r12", "r13", "r15", "r16", "r17", "r18", "r20", "r21", "memory");
}

#if PAIRED && defined(__AVR_HAVE_MUL__) && SUM_BYTES == 3
#define PAIRS_TAP \
    "ld r16, X+ \n\t" \
    "ld r19, Y+ \n\t" \
    "lpm r18, Z+ \n\t" \
    ADD_PRODUCT(r16, r2, r3, r4, ) \
    ADD_PRODUCT(r19, r8, r9, r10, ) \
    "lpm r18, Z+ \n\t" \
    ADD_PRODUCT(r16, r5, r6, r7, ) \
    ADD_PRODUCT(r19, r11, r12, r13, )
INLINE void pairs_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    register uint8_t flags __asm__("r14") = larger ? 3 : window.pitch == 0 ? 2 : 0; /* bit 0: of a, bit 1: of b */
    register const uint8_t *second __asm__("r20") = b;
    register sum_t *place __asm__("r22") = sums;
    register uint16_t pairs __asm__("r24") = window.pairs;
    __asm__ volatile(
        "push r28 \n\t"
        "push r29 \n\t"
        "movw r28, r20 \n"
        "1: push r26 \n\t"
        "push r27 \n\t"
        "push r28 \n\t"
        "push r29 \n\t"
        "clr r2 \n\t"
        "clr r3 \n\t"
        "movw r4, r2 \n\t"
        "movw r6, r2 \n\t"
        "movw r8, r2 \n\t"
        "movw r10, r2 \n\t"
        "movw r12, r2 \n\t"
        LOAD(r15, rows)
        "2: " LOAD2(r20, r21, taps)
        "lsr r21 \n\t" /* two taps a round; an odd number begins with the second one */
        "ror r20 \n\t"
        "brcc 3f \n\t"
        "subi r20, 255 \n\t"
        "sbci r21, 255 \n\t"
        NESTED
        "rjmp 5f \n"
        "3: " NESTED
        "4: " PAIRS_TAP
        "5: " PAIRS_TAP
        "dec r20 \n\t"
        "brne 4b \n\t"
        "dec r21 \n\t"
        "brne 4b \n\t"
        LOAD2(r16, r17, skip)
        "add r26, r16 \n\t"
        "adc r27, r17 \n\t"
        "add r28, r16 \n\t"
        "adc r29, r17 \n\t"
        "dec r15 \n\t"
        "breq 6f \n\t"
        "rjmp 2b \n"
        "6: pop r29 \n\t"
        "pop r28 \n\t"
        "pop r27 \n\t"
        "pop r26 \n\t"
        "movw r20, r30 \n\t"
        "movw r30, r22 \n\t"
        "bst r14, 0 \n\t"
        KEEP(r2, r3, r4, , 0)
        KEEP(r5, r6, r7, , 3)
        LOAD2(r16, r17, pitch)
        "add r30, r16 \n\t"
        "adc r31, r17 \n\t"
        "bst r14, 1 \n\t"
        KEEP(r8, r9, r10, , 0)
        KEEP(r11, r12, r13, , 3)
        "subi r22, -6 \n\t"
        "sbci r23, -1 \n\t"
        "movw r30, r20 \n\t"
        "sbiw r24, 1 \n\t"
        "breq 10f \n\t"
        "rjmp 1b \n"
        "10: pop r29 \n\t"
        "pop r28 \n\t"
        "clr __zero_reg__"
        : "+x"(a), "+z"(weights), "+r"(second), "+r"(place), "+r"(pairs)
        : "r"(flags), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip), SYMBOL(pitch)
        : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13", "r15", "r16", "r17", "r18", "r19",
          "memory");
}
#endif
#else
/* The sums of two channels for one window, or the part of it that lies inside. */
INLINE void pairs_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    const int8_t *weight = (const int8_t *)weights;
    unsigned taps = ALONE(taps), skip = ALONE(skip);
    for (unsigned rest = window.pairs; rest > 0; rest--) {
        const uint8_t *x = a;
        sum_t a0 = 0, a1 = 0;
        for (unsigned row = ALONE(rows); row > 0; row--) {
            const uint8_t *end = x + taps;
            do {
                int32_t tap = *x++;
                a0 += *weight++ * tap;
                a1 += *weight++ * tap;
            } while (x != end);
            x += skip;
#if PADDED
            weight += edge.weights_skip;
#endif
        }
        keep(sums++, a0, larger);
        keep(sums++, a1, larger);
#if PADDED
        weight += edge.weights_rest;
#endif
    }
}

#if PAIRED
/* The same for two windows at once. */
INLINE void pairs_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    const int8_t *weight = (const int8_t *)weights;
    sum_t *other = (sum_t *)(void *)((uint8_t *)sums + window.pitch);
    unsigned taps = window.taps, skip = window.skip;
    for (unsigned rest = window.pairs; rest > 0; rest--) {
        const uint8_t *x = a, *y = b;
        sum_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
        for (unsigned row = window.rows; row > 0; row--) {
            const uint8_t *end = x + taps;
            do {
                int32_t first = weight[0], second = weight[1], tap_x = *x++, tap_y = *y++;
                weight += 2;
                a0 += first * tap_x;
                b0 += first * tap_y;
                a1 += second * tap_x;
                b1 += second * tap_y;
            } while (x != end);
            x += skip;
            y += skip;
        }
        keep(sums++, a0, larger);
        keep(sums++, a1, larger);
        keep(other++, b0, larger || window.pitch == 0);
        keep(other++, b1, larger || window.pitch == 0);
    }
}
#endif
#endif

KERNEL void sums_pairs(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
#if defined(__AVR__) && (!defined(__AVR_HAVE_MUL__) || SUM_BYTES == 4) /* registers for one window only */
#if PADDED
        edge.rows = window.rows; /* all of it lies inside */
        edge.taps = window.taps;
        edge.skip = window.skip;
        edge.weights_skip = edge.weights_rest = 0;
#endif
        pairs_alone(a, weights, sums, larger);
        pairs_alone(b, weights, (sum_t *)(void *)((uint8_t *)sums + window.pitch), larger || window.pitch == 0);
#else
        pairs_together(a, b, weights, sums, larger);
#endif
        return;
    }
#else
    (void)b;
#endif
#if PADDED
    weights += edge.weights_first;
#endif
    pairs_alone(a, weights, sums, larger);
}

/* kernel sums_channels (uses kept) */
/* The weights lie channel by channel, tap by tap: for cores with eight registers. */
KERNEL void sums_channels(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned taps = window.taps, row_bytes = taps + window.skip, rows = window.rows;
    sum_t *other = (sum_t *)(void *)((uint8_t *)sums + window.pitch);
    uint8_t larger_b = larger || window.pitch == 0;
    for (const sum_t *last = sums + window.channels; sums != last; sums++) {
        sum_t sum_a = 0, sum_b = 0;
#if PADDED
        if (b == 0) {
            const uint8_t *x = a;
            weights += edge.weights_first;
            for (unsigned row = edge.rows; row > 0; row--) {
                for (const uint8_t *end = x + edge.taps; x != end; x++, weights++) {
                    sum_a += (int8_t)*weights * *x;
                }
                x += edge.skip;
                weights += edge.weights_skip;
            }
            weights += edge.weights_rest;
            weights -= edge.weights_first;
            keep(sums, sum_a, larger);
            continue;
        }
#endif
#if defined(__ARM_ARCH_6M__) && !defined(__clang__) /* which has fewer registers to give */
        {
            register unsigned pitch_of_rows __asm__("r12") = row_bytes;
            register const uint8_t *end __asm__("lr") = weights + rows * taps;
            const uint8_t *x = a + taps, *y = b + taps;
            int32_t first = -(int32_t)taps, index, tap, weight;
            __asm__("0: ldr %[index], %[first] \n\t"
                    "sub %[weights], %[index] \n\t"
                    "lsr %[weight], %[index], #1 \n\t" /* two taps a round; an odd number begins with the second one */
                    "bcs 2f \n"
                    "1: \n\t"
                    "ldrsb %[weight], [%[weights], %[index]] \n\t"
                    "ldrb %[tap], [%[x], %[index]] \n\t"
                    "mul %[tap], %[weight] \n\t"
                    "add %[sum_x], %[tap] \n\t"
                    "ldrb %[tap], [%[y], %[index]] \n\t"
                    "mul %[tap], %[weight] \n\t"
                    "add %[sum_y], %[tap] \n\t"
                    "add %[index], #1 \n"
                    "2: \n\t"
                    "ldrsb %[weight], [%[weights], %[index]] \n\t"
                    "ldrb %[tap], [%[x], %[index]] \n\t"
                    "mul %[tap], %[weight] \n\t"
                    "add %[sum_x], %[tap] \n\t"
                    "ldrb %[tap], [%[y], %[index]] \n\t"
                    "mul %[tap], %[weight] \n\t"
                    "add %[sum_y], %[tap] \n\t"
                    "add %[index], #1 \n\t"
                    "bne 1b \n\t"
                    "add %[x], %[row_bytes] \n\t"
                    "add %[y], %[row_bytes] \n\t"
                    "cmp %[weights], %[end] \n\t"
                    "bne 0b"
                    : [sum_x] "+l"(sum_a), [sum_y] "+l"(sum_b), [x] "+l"(x), [y] "+l"(y), [weights] "+l"(weights),
                      [index] "=&l"(index), [tap] "=&l"(tap), [weight] "=&l"(weight)
                    : [first] "m"(first), [row_bytes] "r"(pitch_of_rows), [end] "r"(end)
                    : "cc", "memory");
        }
#else
        const uint8_t *x = a, *y = b;
        for (unsigned row = rows; row > 0; row--) {
            for (unsigned tap = 0; tap < taps; tap++, weights++) {
                sum_a += (int8_t)*weights * x[tap];
                sum_b += (int8_t)*weights * y[tap];
            }
            x += row_bytes;
            y += row_bytes;
        }
#endif
        keep(sums, sum_a, larger);
        keep(other++, sum_b, larger_b);
    }
}

/* kernel sums_words (uses kept) */
/*
 * The weights of two channels lie together, four taps at a time: four of the first channel, four of the second. Zeros join the last
 * taps of a row and the last channel of an odd number. For cores that multiply 16-bit halves of words: what these read behind the
 * last tap of a row, three bytes at most, counts for nothing.
 */
#define WORD_TAPS 4
KERNEL void sums_words(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned taps = window.taps, skip = window.skip;
    sum_t *other = (sum_t *)(void *)((uint8_t *)sums + window.pitch);
    uint8_t larger_b = larger || window.pitch == 0;
    unsigned row_words = (taps + WORD_TAPS - 1) / WORD_TAPS;
#if defined(__ARM_FEATURE_DSP) && !defined(__clang__)
    /* A round for each word of a row; how many are left of all rows: rows behind this one in the upper half, words of this one below. */
    uint32_t rounds = ((uint32_t)window.rows - 1) << 16 | row_words, next_row = row_words - 0x10000;
    uint32_t step = skip + taps - row_words * WORD_TAPS; /* from what was read of a row to the next one */
#endif
    for (unsigned rest = window.pairs; rest > 0; rest--) {
        sum_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
        const uint8_t *x = a, *y = b;
#if PADDED
        if (b == 0) {
            weights += edge.above * row_words * 2 * WORD_TAPS;
            for (unsigned row = edge.rows; row > 0; row--) {
                for (unsigned tap = edge.before, end = tap + edge.taps; tap < end; tap++) {
                    const uint8_t *weight = weights + (tap / WORD_TAPS * 2 * WORD_TAPS + tap % WORD_TAPS);
                    a0 += (int8_t)weight[0] * *x;
                    a1 += (int8_t)weight[WORD_TAPS] * *x++;
                }
                x += edge.skip;
                weights += row_words * 2 * WORD_TAPS;
            }
            weights += edge.below * row_words * 2 * WORD_TAPS;
            keep(sums++, a0, larger);
            keep(sums++, a1, larger);
            continue;
        }
#endif
#if defined(__ARM_FEATURE_DSP) && !defined(__clang__)
        uint32_t rest_ = rounds, x_odd, x_even, y_odd, y_even, odd, even;
        __asm__("1: ldr %[x_odd], [%[x]], #4 \n\t"
                "ldr %[y_odd], [%[y]], #4 \n\t"
                "ldr %[odd], [%[weights]], #4 \n\t"
                "uxtb16 %[x_even], %[x_odd] \n\t"
                "uxtb16 %[x_odd], %[x_odd], ror #8 \n\t"
                "uxtb16 %[y_even], %[y_odd] \n\t"
                "uxtb16 %[y_odd], %[y_odd], ror #8 \n\t"
                "sxtb16 %[even], %[odd] \n\t"
                "sxtb16 %[odd], %[odd], ror #8 \n\t"
                "smlad %[a0], %[x_even], %[even], %[a0] \n\t"
                "smlad %[a0], %[x_odd], %[odd], %[a0] \n\t"
                "smlad %[b0], %[y_even], %[even], %[b0] \n\t"
                "smlad %[b0], %[y_odd], %[odd], %[b0] \n\t"
                "ldr %[odd], [%[weights]], #4 \n\t"
                "sxtb16 %[even], %[odd] \n\t"
                "sxtb16 %[odd], %[odd], ror #8 \n\t"
                "smlad %[a1], %[x_even], %[even], %[a1] \n\t"
                "smlad %[a1], %[x_odd], %[odd], %[a1] \n\t"
                "smlad %[b1], %[y_even], %[even], %[b1] \n\t"
                "smlad %[b1], %[y_odd], %[odd], %[b1] \n\t"
                "subs %[rest], #1 \n\t"
                "lsls %[odd], %[rest], #16 \n\t"
                "bne 1b \n\t"
                "ldr %[odd], %[next_row] \n\t"
                "adds %[rest], %[odd] \n\t"
                "bmi 2f \n\t"
                "ldr %[odd], %[step] \n\t"
                "add %[x], %[odd] \n\t"
                "add %[y], %[odd] \n\t"
                "b 1b \n"
                "2:"
                : [a0] "+r"(a0), [a1] "+r"(a1), [b0] "+r"(b0), [b1] "+r"(b1), [x] "+r"(x), [y] "+r"(y), [weights] "+r"(weights),
                  [rest] "+r"(rest_), [x_odd] "=&r"(x_odd), [x_even] "=&r"(x_even), [y_odd] "=&r"(y_odd),
                  [y_even] "=&r"(y_even), [odd] "=&r"(odd), [even] "=&r"(even)
                : [next_row] "m"(next_row), [step] "m"(step)
                : "cc", "memory");
#else
        for (unsigned row = window.rows; row > 0; row--) {
            for (unsigned tap = 0; tap < taps; tap++) {
                const uint8_t *weight = weights + (tap / WORD_TAPS * 2 * WORD_TAPS + tap % WORD_TAPS);
                a0 += (int8_t)weight[0] * *x;
                a1 += (int8_t)weight[WORD_TAPS] * *x++;
                b0 += (int8_t)weight[0] * *y;
                b1 += (int8_t)weight[WORD_TAPS] * *y++;
            }
            weights += row_words * 2 * WORD_TAPS;
            x += skip;
            y += skip;
        }
#endif
        keep(sums++, a0, larger);
        keep(sums++, a1, larger);
        keep(other++, b0, larger_b);
        keep(other++, b1, larger_b);
    }
}

/* kernel sums_gaps (uses kept) */
/*
 * Only weights that are not zero. For every channel and every row of the window: how many pairs of weights follow, then for each
 * pair a byte and the two weights. The byte holds how many taps each of them lies behind the one before it (the low four bits are
 * the first's); the first of a row counts from the row's first tap.
 */
#if PAIRED
#if defined(__AVR_HAVE_MUL__) && SUM_BYTES == 3
#define GAP_PRODUCTS \
    "andi r16, 15 \n\t" \
    "add r26, r16 \n\t" \
    "adc r27, r15 \n\t" \
    "add r28, r16 \n\t" \
    "adc r29, r15 \n\t" \
    "lpm r18, Z+ \n\t" \
    "ld r16, X \n\t" \
    "ld r19, Y \n\t" \
    ADD_PRODUCT(r16, r2, r3, r4, ) \
    ADD_PRODUCT(r19, r8, r9, r10, )
INLINE void gaps_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    register uint8_t flags __asm__("r11") = larger ? 3 : window.pitch == 0 ? 2 : 0; /* bit 0: of a, bit 1: of b */
    register const uint8_t *first __asm__("r6") = a;
    register const uint8_t *second __asm__("r12") = b;
    register sum_t *place __asm__("r22") = sums;
    register uint16_t channels __asm__("r24") = window.channels;
    __asm__ volatile(
        "push r28 \n\t"
        "push r29 \n\t"
        "clr r15 \n"
        "1: push r6 \n\t"
        "push r7 \n\t"
        "push r12 \n\t"
        "push r13 \n\t"
        "clr r2 \n\t"
        "clr r3 \n\t"
        "clr r4 \n\t"
        "movw r8, r2 \n\t"
        "clr r10 \n\t"
        LOAD(r20, rows)
        "2: lpm r21, Z+ \n\t"
        "tst r21 \n\t"
        "breq 4f \n\t"
        "movw r26, r6 \n\t"
        "movw r28, r12 \n"
        "3: lpm r5, Z+ \n\t"
        "mov r16, r5 \n\t"
        GAP_PRODUCTS
        "mov r16, r5 \n\t"
        "swap r16 \n\t"
        GAP_PRODUCTS
        "dec r21 \n\t"
        "brne 3b \n"
        "4: " LOAD2(r16, r17, taps)
        LOAD2(r18, r19, skip)
        "add r16, r18 \n\t"
        "adc r17, r19 \n\t"
        "add r6, r16 \n\t"
        "adc r7, r17 \n\t"
        "add r12, r16 \n\t"
        "adc r13, r17 \n\t"
        "dec r20 \n\t"
        "brne 2b \n\t"
        "pop r13 \n\t"
        "pop r12 \n\t"
        "pop r7 \n\t"
        "pop r6 \n\t"
        "movw r20, r30 \n\t"
        "movw r30, r22 \n\t"
        "bst r11, 0 \n\t"
        KEEP(r2, r3, r4, , 0)
        LOAD2(r16, r17, pitch)
        "add r30, r16 \n\t"
        "adc r31, r17 \n\t"
        "bst r11, 1 \n\t"
        KEEP(r8, r9, r10, , 0)
        "subi r22, -3 \n\t"
        "sbci r23, -1 \n\t"
        "movw r30, r20 \n\t"
        "sbiw r24, 1 \n\t"
        "breq 5f \n\t"
        "rjmp 1b \n"
        "5: pop r29 \n\t"
        "pop r28 \n\t"
        "clr __zero_reg__"
        : "+z"(weights), "+r"(place), "+r"(channels)
        : "r"(flags), "r"(first), "r"(second), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip), SYMBOL(pitch)
        : "r2", "r3", "r4", "r5", "r8", "r9", "r10", "r14", "r15", "r16", "r17", "r18", "r19", "r20", "r21", "r26", "r27",
          "memory");
}
#else
INLINE void gaps_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    uint16_t row_bytes = (uint16_t)(window.taps + window.skip);
    for (uint16_t channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum_a = 0, sum_b = 0;
        const uint8_t *row_a = a, *row_b = b;
        for (uint16_t row = window.rows; row > 0; row--, row_a += row_bytes, row_b += row_bytes) {
            const uint8_t *x = row_a, *y = row_b;
            for (uint8_t pairs = BYTE(weights++); pairs > 0; pairs--) {
                uint8_t gaps = BYTE(weights++);
                int16_t weight = (int8_t)BYTE(weights++);
                x += gaps & 15;
                y += gaps & 15;
                sum_a += (int32_t)weight * *x;
                sum_b += (int32_t)weight * *y;
                weight = (int8_t)BYTE(weights++);
                x += gaps >> 4;
                y += gaps >> 4;
                sum_a += (int32_t)weight * *x;
                sum_b += (int32_t)weight * *y;
            }
        }
        keep(sums, sum_a, larger);
        keep((sum_t *)(void *)((uint8_t *)sums + window.pitch), sum_b, larger || window.pitch == 0);
    }
}
#endif
#endif

#if PADDED || !PAIRED
/* The sums of one window, or the part of it that lies inside. */
INLINE void gaps_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PADDED
    uint16_t above = edge.above, before = edge.before;
#else
    uint16_t above = 0, before = 0;
#endif
    uint16_t taps = ALONE(taps), row_bytes = (uint16_t)(taps + ALONE(skip));
    for (uint16_t channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum = 0;
        const uint8_t *begin = a;
        for (uint16_t row = 0; row < window.rows; row++) {
            uint8_t inside = (uint16_t)(row - above) < ALONE(rows);
            uint16_t tap = (uint16_t)-before; /* modulo 2**16: one outside is not below taps either */
            for (uint8_t entries = BYTE(weights++); entries > 0; entries--, weights += 3) {
                uint8_t gaps = BYTE(weights);
                for (uint8_t which = 1; which <= 2; which++, gaps >>= 4) {
                    tap = (uint16_t)(tap + (gaps & 15));
                    if (inside && tap < taps) {
                        sum += (sum_t)((int32_t)(int8_t)BYTE(weights + which) * begin[tap]);
                    }
                }
            }
            if (inside) {
                begin += row_bytes;
            }
        }
        keep(sums, sum, larger);
    }
}
#endif

KERNEL void sums_gaps(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
        gaps_together(a, b, weights, sums, larger);
        return;
    }
#else
    (void)b;
#endif
#if PADDED || !PAIRED
    gaps_alone(a, weights, sums, larger);
#endif
}

/* kernel nibble (uses requantise) */
/* The weight of four bits, two's complement, in the high half of a byte. */
INLINE int8_t high_nibble(uint8_t both)
{
    return (int8_t)((int8_t)both >> 4);
}

/* Adds the products of such a weight with two taps to two sums; a core that cannot multiply goes by the weight's bits. */
INLINE void add_products(int8_t weight, int x, int y, sum_t *sum_x, sum_t *sum_y)
{
#if (defined(__AVR__) && !defined(__AVR_HAVE_MUL__)) || (defined(__riscv) && !defined(__riscv_mul))
    if (weight & 1) {
        *sum_x += x;
        *sum_y += y;
    }
    if (weight & 2) {
        *sum_x += x * 2;
        *sum_y += y * 2;
    }
    if (weight & 4) {
        *sum_x += x * 4;
        *sum_y += y * 4;
    }
    if (weight & 8) {
        *sum_x -= x * 8;
        *sum_y -= y * 8;
    }
#else
    *sum_x += weight * x;
    *sum_y += weight * y;
#endif
}

/* kernel sums_nibbles (uses kept, nibble) */
/*
 * Weights of four bits, channel by channel, row by row of the window: two taps in a byte, the first in its low half. A zero fills up
 * the last byte of a row.
 */
INLINE int8_t low_nibble(uint8_t both)
{
    return (int8_t)((int8_t)(uint8_t)(both << 4) >> 4);
}

#if PAIRED
#if defined(__AVR_HAVE_MUL__) && SUM_BYTES == 3
/* Assembly: adds the products of the next tap of both windows with the weight in the high half of r18, whatever the low half is. */
#define NIBBLE_PRODUCTS \
    "muls r18, r20 \n\t" /* times 16: r1 is the high half with its sign */ \
    "mov r18, r1 \n\t" \
    "ld r16, X+ \n\t" \
    "ld r19, Y+ \n\t" \
    ADD_PRODUCT(r16, r2, r3, r4, ) \
    ADD_PRODUCT(r19, r8, r9, r10, )
INLINE void nibbles_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    register uint8_t flags __asm__("r11") = larger ? 3 : window.pitch == 0 ? 2 : 0; /* bit 0: of a, bit 1: of b */
    register const uint8_t *second __asm__("r12") = b;
    register sum_t *place __asm__("r22") = sums;
    register sum_t *end __asm__("r6") = sums + window.channels;
    __asm__ volatile(
        "push r28 \n\t"
        "push r29 \n\t"
        "movw r28, r12 \n"
        "1: push r26 \n\t"
        "push r27 \n\t"
        "push r28 \n\t"
        "push r29 \n\t"
        "ldi r20, 16 \n\t"
        "clr r2 \n\t"
        "clr r3 \n\t"
        "clr r4 \n\t"
        "movw r8, r2 \n\t"
        "clr r10 \n\t"
        LOAD(r14, rows)
        "2: " LOAD2(r24, r25, taps)
        "bst r24, 0 \n\t" /* an odd number ends with half a byte */
        "lsr r25 \n\t"
        "ror r24 \n\t"
        "adiw r24, 0 \n\t"
        "breq 4f \n"
        "3: lpm r5, Z+ \n\t"
        "mov r18, r5 \n\t"
        "swap r18 \n\t"
        NIBBLE_PRODUCTS
        "mov r18, r5 \n\t"
        NIBBLE_PRODUCTS
        "sbiw r24, 1 \n\t"
        "brne 3b \n"
        "4: brtc 5f \n\t"
        "lpm r18, Z+ \n\t"
        "swap r18 \n\t"
        NIBBLE_PRODUCTS
        "5: " LOAD2(r16, r17, skip)
        "add r26, r16 \n\t"
        "adc r27, r17 \n\t"
        "add r28, r16 \n\t"
        "adc r29, r17 \n\t"
        "dec r14 \n\t"
        "breq 6f \n\t"
        "rjmp 2b \n"
        "6: pop r29 \n\t"
        "pop r28 \n\t"
        "pop r27 \n\t"
        "pop r26 \n\t"
        "movw r20, r30 \n\t"
        "movw r30, r22 \n\t"
        "bst r11, 0 \n\t"
        KEEP(r2, r3, r4, , 0)
        LOAD2(r16, r17, pitch)
        "add r30, r16 \n\t"
        "adc r31, r17 \n\t"
        "bst r11, 1 \n\t"
        KEEP(r8, r9, r10, , 0)
        "subi r22, -3 \n\t"
        "sbci r23, -1 \n\t"
        "movw r30, r20 \n\t"
        "cp r22, r6 \n\t"
        "cpc r23, r7 \n\t"
        "breq 7f \n\t"
        "rjmp 1b \n"
        "7: pop r29 \n\t"
        "pop r28 \n\t"
        "clr __zero_reg__"
        : "+x"(a), "+z"(weights), "+r"(place)
        : "r"(flags), "r"(second), "r"(end), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip), SYMBOL(pitch)
        : "r2", "r3", "r4", "r5", "r8", "r9", "r10", "r14", "r16", "r17", "r18", "r19", "r20", "r21", "r24", "r25", "memory");
}
#else
INLINE void nibbles_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned apart = (unsigned)(b - a), taps = window.taps, skip = window.skip;
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum_a = 0, sum_b = 0;
        const uint8_t *x = a;
        for (unsigned row = window.rows; row > 0; row--, x += skip) {
            const uint8_t *end = x + taps;
            do {
                uint8_t both = BYTE(weights++);
                add_products(low_nibble(both), *x, x[apart], &sum_a, &sum_b);
                if (++x == end) {
                    break;
                }
                add_products(high_nibble(both), *x, x[apart], &sum_a, &sum_b);
            } while (++x != end);
        }
        keep(sums, sum_a, larger);
        keep((sum_t *)(void *)((uint8_t *)sums + window.pitch), sum_b, larger || window.pitch == 0);
    }
}
#endif
#endif

#if PADDED || !PAIRED
/* The sums of one window, or the part of it that lies inside. */
INLINE void nibbles_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned row_bytes = (window.taps + 1u) / 2;
#if PADDED
    unsigned before = edge.before, above = edge.above * row_bytes, below = edge.below * row_bytes;
#else
    unsigned before = 0, above = 0, below = 0;
#endif
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum = 0, none = 0; /* of a window that is not there */
        const uint8_t *x = a;
        weights += above;
        for (unsigned row = ALONE(rows); row > 0; row--, x += ALONE(skip), weights += row_bytes) {
            for (unsigned tap = before, end = tap + ALONE(taps); tap < end; tap++, x++) {
                uint8_t both = BYTE(weights + tap / 2);
                add_products(tap % 2 ? high_nibble(both) : low_nibble(both), *x, 0, &sum, &none);
            }
        }
        weights += below;
        keep(sums, sum, larger);
    }
}
#endif

KERNEL void sums_nibbles(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
        nibbles_together(a, b, weights, sums, larger);
        return;
    }
#else
    (void)b;
#endif
#if PADDED || !PAIRED
    nibbles_alone(a, weights, sums, larger);
#endif
}

/* kernel sums_nibble_gaps (uses kept, nibble) */
/*
 * Only weights that are not zero, of four bits. For every channel and every row of the window: how many follow, then for each a byte.
 * Its low half holds how many taps the weight lies behind the one before it, its high half the weight; the first of a row counts from
 * the row's first tap.
 */
#if PAIRED
#if defined(__AVR_HAVE_MUL__) && SUM_BYTES == 3
INLINE void nibble_gaps_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    register uint8_t flags __asm__("r11") = larger ? 3 : window.pitch == 0 ? 2 : 0; /* bit 0: of a, bit 1: of b */
    register const uint8_t *first __asm__("r6") = a;
    register const uint8_t *second __asm__("r12") = b;
    register sum_t *place __asm__("r22") = sums;
    register uint16_t channels __asm__("r24") = window.channels;
    __asm__ volatile(
        "push r28 \n\t"
        "push r29 \n\t"
        "clr r15 \n"
        "1: push r6 \n\t"
        "push r7 \n\t"
        "push r12 \n\t"
        "push r13 \n\t"
        "ldi r20, 16 \n\t"
        "clr r2 \n\t"
        "clr r3 \n\t"
        "clr r4 \n\t"
        "movw r8, r2 \n\t"
        "clr r10 \n\t"
        LOAD(r14, rows)
        "2: lpm r21, Z+ \n\t"
        "tst r21 \n\t"
        "breq 4f \n\t"
        "movw r26, r6 \n\t"
        "movw r28, r12 \n"
        "3: lpm r18, Z+ \n\t"
        "mov r16, r18 \n\t"
        "andi r16, 15 \n\t"
        "add r26, r16 \n\t"
        "adc r27, r15 \n\t"
        "add r28, r16 \n\t"
        "adc r29, r15 \n\t"
        "ld r16, X \n\t"
        "ld r19, Y \n\t"
        "muls r18, r20 \n\t" /* times 16: r1 is the high half with its sign */
        "mov r18, r1 \n\t"
        ADD_PRODUCT(r16, r2, r3, r4, )
        ADD_PRODUCT(r19, r8, r9, r10, )
        "dec r21 \n\t"
        "brne 3b \n"
        "4: " LOAD2(r16, r17, taps)
        LOAD2(r18, r19, skip)
        "add r16, r18 \n\t"
        "adc r17, r19 \n\t"
        "add r6, r16 \n\t"
        "adc r7, r17 \n\t"
        "add r12, r16 \n\t"
        "adc r13, r17 \n\t"
        "dec r14 \n\t"
        "brne 2b \n\t"
        "pop r13 \n\t"
        "pop r12 \n\t"
        "pop r7 \n\t"
        "pop r6 \n\t"
        "movw r20, r30 \n\t"
        "movw r30, r22 \n\t"
        "bst r11, 0 \n\t"
        KEEP(r2, r3, r4, , 0)
        LOAD2(r16, r17, pitch)
        "add r30, r16 \n\t"
        "adc r31, r17 \n\t"
        "bst r11, 1 \n\t"
        KEEP(r8, r9, r10, , 0)
        "subi r22, -3 \n\t"
        "sbci r23, -1 \n\t"
        "movw r30, r20 \n\t"
        "sbiw r24, 1 \n\t"
        "breq 5f \n\t"
        "rjmp 1b \n"
        "5: pop r29 \n\t"
        "pop r28 \n\t"
        "clr __zero_reg__"
        : "+z"(weights), "+r"(place), "+r"(channels)
        : "r"(flags), "r"(first), "r"(second), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip), SYMBOL(pitch)
        : "r2", "r3", "r4", "r8", "r9", "r10", "r14", "r15", "r16", "r17", "r18", "r19", "r20", "r21", "r26", "r27", "memory");
}
#else
INLINE void nibble_gaps_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned apart = (unsigned)(b - a), row_bytes = (unsigned)window.taps + window.skip;
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum_a = 0, sum_b = 0;
        const uint8_t *begin = a;
        for (unsigned row = window.rows; row > 0; row--, begin += row_bytes) {
            const uint8_t *x = begin, *end = weights + BYTE(weights);
            while (weights++ != end) {
                uint8_t both = BYTE(weights);
                x += both & 15;
                add_products(high_nibble(both), *x, x[apart], &sum_a, &sum_b);
            }
        }
        keep(sums, sum_a, larger);
        keep((sum_t *)(void *)((uint8_t *)sums + window.pitch), sum_b, larger || window.pitch == 0);
    }
}
#endif
#endif

#if PADDED || !PAIRED
/* The sums of one window, or the part of it that lies inside. */
INLINE void nibble_gaps_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PADDED
    unsigned above = edge.above, before = edge.before;
#else
    unsigned above = 0, before = 0;
#endif
    unsigned taps = ALONE(taps), row_bytes = taps + ALONE(skip);
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum = 0, none = 0; /* of a window that is not there */
        const uint8_t *begin = a;
        for (unsigned row = 0; row < window.rows; row++) {
            uint8_t inside = row - above < ALONE(rows);
            unsigned tap = 0 - before; /* modulo: one outside is not below taps either */
            for (uint8_t rest = BYTE(weights++); rest > 0; rest--) {
                uint8_t both = BYTE(weights++);
                tap += both & 15;
                if (inside && tap < taps) {
                    add_products(high_nibble(both), begin[tap], 0, &sum, &none);
                }
            }
            if (inside) {
                begin += row_bytes;
            }
        }
        keep(sums, sum, larger);
    }
}
#endif

KERNEL void sums_nibble_gaps(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
        nibble_gaps_together(a, b, weights, sums, larger);
        return;
    }
#else
    (void)b;
#endif
#if PADDED || !PAIRED
    nibble_gaps_alone(a, weights, sums, larger);
#endif
}

/* kernel bits (uses kept) */
/* Of the bytes that follow one another at weights: the next one, below a 1 that says when its bits have been shifted out. */
INLINE unsigned next_byte(const uint8_t **weights)
{
    return 0x100u | BYTE((*weights)++);
}

#ifdef __AVR__
/* Assembly: keeps the sums of both windows at r22, which moves on to the next channel, by the flags in r15. */
#define KEEP_BOTH \
    "movw r20, r30 \n\t" \
    "movw r30, r22 \n\t" \
    "bst r15, 0 \n\t" \
    KEEP(r2, r3, r4, r5, 0) \
    LOAD2(r16, r17, pitch) \
    "add r30, r16 \n\t" \
    "adc r31, r17 \n\t" \
    "bst r15, 1 \n\t" \
    KEEP(r8, r9, r10, r11, 0) \
    "subi r22, -%[sum_bytes] \n\t" \
    "sbci r23, -1 \n\t" \
    "movw r30, r20 \n\t"
#define NO_SUMS \
    "clr r2 \n\t" \
    "clr r3 \n\t" \
    "movw r4, r2 \n\t" \
    "movw r8, r2 \n\t" \
    "movw r10, r2 \n\t"
#endif

/* kernel crumb (uses requantise) */
/* Adds the products of a weight, the lowest two bits of bits in two's complement but never -2, with the taps at x and y to two sums. */
INLINE void add_crumb(unsigned bits, const uint8_t *x, const uint8_t *y, sum_t *sum_x, sum_t *sum_y)
{
#ifdef __arm__ /* a product takes no more instructions than a branch */
    int weight = (int)(bits << 30) >> 30;
    *sum_x += weight * *x;
    *sum_y += weight * *y;
#else
    if (bits & 1) {
        if (bits & 2) {
            *sum_x -= *x;
            *sum_y -= *y;
        } else {
            *sum_x += *x;
            *sum_y += *y;
        }
    }
#endif
}

#ifdef __AVR__
/* Assembly: adds the taps in r16 and r19 to the sums of both windows, or takes them away. */
#define BOTH_SUMS(first, further) \
    first " r2, r16 \n\t" \
    further " r3, __zero_reg__ \n\t" \
    further " r4, __zero_reg__ \n\t" TOP_BYTE(further " r5, __zero_reg__ \n\t") \
    first " r8, r19 \n\t" \
    further " r9, __zero_reg__ \n\t" \
    further " r10, __zero_reg__ \n\t" TOP_BYTE(further " r11, __zero_reg__ \n\t")
#endif

/* kernel sums_crumbs (uses bits, crumb) */
/*
 * Weights of two bits, -1, 0 or 1 in two's complement, channel by channel, row by row of the window: four taps in a byte, the first in
 * its lowest bits. Zeros fill up the last byte of a row.
 */
#if PAIRED
#ifdef __AVR__
INLINE void crumbs_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    register uint8_t flags __asm__("r15") = larger ? 3 : window.pitch == 0 ? 2 : 0; /* bit 0: of a, bit 1: of b */
    register const uint8_t *second __asm__("r12") = b;
    register sum_t *place __asm__("r22") = sums;
    register uint16_t channels __asm__("r6") = window.channels;
    __asm__ volatile(
        "push r28 \n\t"
        "push r29 \n\t"
        "movw r28, r12 \n"
        "1: push r26 \n\t"
        "push r27 \n\t"
        "push r28 \n\t"
        "push r29 \n\t"
        NO_SUMS
        LOAD(r14, rows)
        "2: " LOAD2(r24, r25, taps)
        "ldi r21, 1 \n" /* one more than the taps that are left in r18 */
        "3: ld r16, X+ \n\t"
        "ld r19, Y+ \n\t"
        "dec r21 \n\t"
        "brne 4f \n\t"
        "lpm r18, Z+ \n\t"
        "ldi r21, 4 \n"
        "4: lsr r18 \n\t"
        "brcc 6f \n\t"
        "lsr r18 \n\t"
        "brcs 5f \n\t"
        BOTH_SUMS("add", "adc")
        "rjmp 7f \n"
        "5: " BOTH_SUMS("sub", "sbc")
        "rjmp 7f \n"
        "6: lsr r18 \n"
        "7: sbiw r24, 1 \n\t"
        "brne 3b \n\t"
        LOAD2(r16, r17, skip)
        "add r26, r16 \n\t"
        "adc r27, r17 \n\t"
        "add r28, r16 \n\t"
        "adc r29, r17 \n\t"
        "dec r14 \n\t"
        "brne 2b \n\t"
        "pop r29 \n\t"
        "pop r28 \n\t"
        "pop r27 \n\t"
        "pop r26 \n\t"
        KEEP_BOTH
        "movw r24, r6 \n\t"
        "sbiw r24, 1 \n\t"
        "movw r6, r24 \n\t"
        "breq 7f \n\t"
        "rjmp 1b \n"
        "7: pop r29 \n\t"
        "pop r28"
        : "+x"(a), "+z"(weights), "+r"(place), "+r"(channels)
        : "r"(flags), "r"(second), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip), SYMBOL(pitch), [sum_bytes] "n"(sizeof *sums)
        : "r2", "r3", "r4", "r5", "r8", "r9", "r10", "r11", "r14", "r16", "r17", "r18", "r19", "r20", "r21", "r24", "r25", "memory");
}
#else
INLINE void crumbs_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned apart = (unsigned)(b - a), taps = window.taps, skip = window.skip;
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum_a = 0, sum_b = 0;
        const uint8_t *x = a;
        for (unsigned row = window.rows; row > 0; row--, x += skip) {
            const uint8_t *end = x + taps;
            do {
                unsigned rest = next_byte(&weights);
                do {
                    add_crumb(rest, x, x + apart, &sum_a, &sum_b);
                    rest >>= 2;
                } while (++x != end && rest != 1);
            } while (x != end);
        }
        keep(sums, sum_a, larger);
        keep((sum_t *)(void *)((uint8_t *)sums + window.pitch), sum_b, larger || window.pitch == 0);
    }
}
#endif
#endif

#if PADDED || !PAIRED
/* The sums of one window, or the part of it that lies inside. */
INLINE void crumbs_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned row_bytes = (window.taps + 3u) / 4;
#if PADDED
    unsigned before = edge.before, above = edge.above * row_bytes, below = edge.below * row_bytes;
#else
    unsigned before = 0, above = 0, below = 0;
#endif
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum = 0, none = 0; /* of a window that is not there */
        const uint8_t *x = a;
        weights += above;
        for (unsigned row = ALONE(rows); row > 0; row--, x += ALONE(skip), weights += row_bytes) {
            const uint8_t *place = weights + before / 4;
            unsigned rest = next_byte(&place) >> before % 4 * 2;
            for (const uint8_t *end = x + ALONE(taps); x != end; x++, rest >>= 2) {
                rest = rest == 1 ? next_byte(&place) : rest;
                add_crumb(rest, x, x, &sum, &none);
            }
        }
        weights += below;
        keep(sums, sum, larger);
    }
}
#endif

KERNEL void sums_crumbs(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
        crumbs_together(a, b, weights, sums, larger);
        return;
    }
#else
    (void)b;
#endif
#if PADDED || !PAIRED
    crumbs_alone(a, weights, sums, larger);
#endif
}

/* kernel sums_crumb_gaps (uses bits, crumb) */
/*
 * Only weights that are not zero, which are 1 or -1. For every channel and every row of the window: how many bytes follow, then in each
 * two halves, the low one first. The lower three bits of a half are how many taps the weight lies behind the one before it, the first
 * of a row behind the place before the row; the fourth is 1 where the weight is -1. A half of 0 has no weight, and goes on by seven.
 */
#if PAIRED
#ifdef __AVR__
INLINE void crumb_gaps_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    register uint8_t flags __asm__("r15") = larger ? 3 : window.pitch == 0 ? 2 : 0; /* bit 0: of a, bit 1: of b */
    register const uint8_t *first __asm__("r6") = a - 1;
    register const uint8_t *second __asm__("r12") = b - 1;
    register sum_t *place __asm__("r22") = sums;
    register uint16_t channels __asm__("r24") = window.channels;
    __asm__ volatile(
        "push r28 \n\t"
        "push r29 \n"
        "1: push r6 \n\t"
        "push r7 \n\t"
        "push r12 \n\t"
        "push r13 \n\t"
        NO_SUMS
        LOAD(r14, rows)
        "2: movw r26, r6 \n\t"
        "movw r28, r12 \n\t"
        "lpm r21, Z+ \n\t"
        "tst r21 \n\t"
        "breq 7f \n"
        "3: lpm r18, Z+ \n\t"
        "set \n" /* until the first half is done */
        "4: mov r16, r18 \n\t"
        "andi r16, 7 \n\t"
        "brne 5f \n\t"
        "adiw r26, 7 \n\t"
        "adiw r28, 7 \n\t"
        "rjmp 6f \n"
        "5: add r26, r16 \n\t"
        "adc r27, __zero_reg__ \n\t"
        "add r28, r16 \n\t"
        "adc r29, __zero_reg__ \n\t"
        "ld r16, X \n\t"
        "ld r19, Y \n\t"
        "sbrc r18, 3 \n\t"
        "rjmp 5f \n\t"
        BOTH_SUMS("add", "adc")
        "rjmp 6f \n"
        "5: " BOTH_SUMS("sub", "sbc")
        "6: swap r18 \n\t"
        "brtc 6f \n\t"
        "clt \n\t"
        "rjmp 4b \n"
        "6: dec r21 \n\t"
        "brne 3b \n"
        "7: " LOAD2(r16, r17, taps)
        LOAD2(r18, r19, skip)
        "add r16, r18 \n\t"
        "adc r17, r19 \n\t"
        "add r6, r16 \n\t"
        "adc r7, r17 \n\t"
        "add r12, r16 \n\t"
        "adc r13, r17 \n\t"
        "dec r14 \n\t"
        "brne 2b \n\t"
        "pop r13 \n\t"
        "pop r12 \n\t"
        "pop r7 \n\t"
        "pop r6 \n\t"
        KEEP_BOTH
        "sbiw r24, 1 \n\t"
        "breq 7f \n\t"
        "rjmp 1b \n"
        "7: pop r29 \n\t"
        "pop r28"
        : "+z"(weights), "+r"(place), "+r"(channels)
        : "r"(flags), "r"(first), "r"(second), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip), SYMBOL(pitch), [sum_bytes] "n"(sizeof *sums)
        : "r2", "r3", "r4", "r5", "r8", "r9", "r10", "r11", "r14", "r16", "r17", "r18", "r19", "r20", "r21", "r26", "r27", "memory");
}
#else
INLINE void crumb_gaps_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    unsigned row_bytes = (unsigned)window.taps + window.skip;
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum_a = 0, sum_b = 0;
        const uint8_t *x = a, *y = b;
        for (unsigned row = window.rows; row > 0; row--, x += row_bytes, y += row_bytes) {
            unsigned tap = 0u - 1u; /* modulo */
            const uint8_t *end = weights + 1 + BYTE(weights);
            for (weights++; weights != end;) {
                unsigned rest = next_byte(&weights);
                do {
                    unsigned gap = rest & 7;
                    if (gap == 0) {
                        tap += 7;
                    } else {
                        tap += gap;
                        add_crumb(1 | (rest >> 2 & 2), x + tap, y + tap, &sum_a, &sum_b);
                    }
                    rest >>= 4;
                } while (rest != 1);
            }
        }
        keep(sums, sum_a, larger);
        keep((sum_t *)(void *)((uint8_t *)sums + window.pitch), sum_b, larger || window.pitch == 0);
    }
}
#endif
#endif

#if PADDED || !PAIRED
/* The sums of one window, or the part of it that lies inside. */
INLINE void crumb_gaps_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PADDED
    unsigned above = edge.above, before = edge.before;
#else
    unsigned above = 0, before = 0;
#endif
    unsigned taps = ALONE(taps), row_bytes = taps + ALONE(skip);
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum = 0, none = 0; /* of a window that is not there */
        const uint8_t *begin = a;
        for (unsigned row = 0; row < window.rows; row++) {
            uint8_t inside = row - above < ALONE(rows);
            unsigned tap = 0u - 1u - before; /* modulo: one outside is not below taps either */
            for (unsigned bytes = BYTE(weights++); bytes > 0; bytes--) {
                for (unsigned rest = next_byte(&weights); rest != 1; rest >>= 4) {
                    if ((rest & 7) == 0) {
                        tap += 7;
                        continue;
                    }
                    tap += rest & 7;
                    if (inside && tap < taps) {
                        add_crumb(1 | (rest >> 2 & 2), begin + tap, begin + tap, &sum, &none);
                    }
                }
            }
            if (inside) {
                begin += row_bytes;
            }
        }
        keep(sums, sum, larger);
    }
}
#endif

KERNEL void sums_crumb_gaps(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
        crumb_gaps_together(a, b, weights, sums, larger);
        return;
    }
#else
    (void)b;
#endif
#if PADDED || !PAIRED
    crumb_gaps_alone(a, weights, sums, larger);
#endif
}

/* kernel bitmap (uses bits) */
/*
 * Only weights that are not zero, of all channels and rows without a break: for eight taps at a time a byte whose bits say, the lowest
 * first, which of their weights follow. Zeros fill up the last such byte.
 */
#ifdef __AVR__
/*
 * Assembly: sums up the windows at a (X) and b (Y). products adds those of the taps in r16 and r19 with the next weight at Z; r7, r12,
 * r17 and r18 are its own, and r13, which is 0 at first. r6 holds the bits of the taps to come, below a 1 until they are shifted out.
 */
#define BITMAP_TOGETHER(products) \
    { \
        register uint8_t flags_ __asm__("r15") = larger ? 3 : window.pitch == 0 ? 2 : 0; /* bit 0: of a, bit 1: of b */ \
        register const uint8_t *second_ __asm__("r12") = b; \
        register sum_t *place_ __asm__("r22") = sums; \
        register uint16_t channels_ __asm__("r24") = window.channels; \
        __asm__ volatile( \
            "push r28 \n\t" \
            "push r29 \n\t" \
            "movw r28, r12 \n\t" \
            "clr r13 \n\t" \
            "clr r6 \n\t" \
            "inc r6 \n" \
            "1: push r26 \n\t" \
            "push r27 \n\t" \
            "push r28 \n\t" \
            "push r29 \n\t" \
            NO_SUMS \
            LOAD(r14, rows) \
            "rjmp 2f \n" \
            "8: lpm r6, Z+ \n\t" \
            "sec \n\t" \
            "ror r6 \n\t" \
            "rjmp 4f \n" \
            "2: " LOAD2(r20, r21, taps) NESTED \
            "3: ld r16, X+ \n\t" \
            "ld r19, Y+ \n\t" \
            "lsr r6 \n\t" \
            "breq 8b \n" \
            "4: brcc 5f \n\t" \
            products \
            "5: dec r20 \n\t" \
            NEXT_TAP \
            "dec r21 \n\t" \
            "breq 5f \n\t" \
            "rjmp 3b \n" \
            "5: " LOAD2(r16, r17, skip) \
            "add r26, r16 \n\t" \
            "adc r27, r17 \n\t" \
            "add r28, r16 \n\t" \
            "adc r29, r17 \n\t" \
            "dec r14 \n\t" \
            "breq 5f \n\t" \
            "rjmp 2b \n" \
            "5: pop r29 \n\t" \
            "pop r28 \n\t" \
            "pop r27 \n\t" \
            "pop r26 \n\t" \
            KEEP_BOTH \
            "sbiw r24, 1 \n\t" \
            "breq 5f \n\t" \
            "rjmp 1b \n" \
            "5: pop r29 \n\t" \
            "pop r28 \n\t" \
            "clr __zero_reg__" \
            : "+x"(a), "+z"(weights), "+r"(second_), "+r"(place_), "+r"(channels_) \
            : "r"(flags_), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip), SYMBOL(pitch), [sum_bytes] "n"(sizeof *sums) \
            : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r14", "r16", "r17", "r18", "r19", "r20", "r21", \
              "memory"); \
    }
#ifdef __AVR_HAVE_MUL__
#define NEXT_TAP "brne 3b \n\t"
#define BOTH_PRODUCTS ADD_PRODUCT(r16, r2, r3, r4, r5) ADD_PRODUCT(r19, r8, r9, r10, r11)
#else
#define NEXT_TAP "breq 6f \n\t rjmp 3b \n 6: \n\t" /* which may be too far for a branch */
/* Assembly: adds both taps, of two bytes each, to their sums, or takes them away; doubles both. */
#define BOTH_TAPS(first, further) \
    first " r2, r16 \n\t" \
    further " r3, r17 \n\t" \
    further " r4, __zero_reg__ \n\t" TOP_BYTE(further " r5, __zero_reg__ \n\t") \
    first " r8, r19 \n\t" \
    further " r9, r12 \n\t" \
    further " r10, __zero_reg__ \n\t" TOP_BYTE(further " r11, __zero_reg__ \n\t")
#define DOUBLE_TAPS \
    "lsl r16 \n\t" \
    "rol r17 \n\t" \
    "lsl r19 \n\t" \
    "rol r12 \n\t"
#endif
#endif

/* Where a kernel is among the weights. */
struct bitmap {
    const uint8_t *next;
    unsigned bits;   /* of the taps to come, below a 1 that says when they have been shifted out */
    unsigned halves; /* of weights of four bits: what is left of the byte read last, in the same way */
};

/* Takes the next weight and adds its products with two taps to two sums. */
typedef void take_next(struct bitmap *place, int x, int y, sum_t *sum_x, sum_t *sum_y);

/* Whether the weight of the next tap is there. */
INLINE uint8_t next_bit(struct bitmap *place)
{
    unsigned bits = place->bits == 1 ? next_byte(&place->next) : place->bits;
    place->bits = bits >> 1;
    return bits & 1;
}

#if PAIRED && !defined(__AVR__)
INLINE void bitmap_together(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger,
                            take_next *take)
{
    struct bitmap place = {weights, 1, 1};
    unsigned apart = (unsigned)(b - a), taps = window.taps, skip = window.skip;
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum_a = 0, sum_b = 0;
        const uint8_t *x = a;
        for (unsigned row = window.rows; row > 0; row--, x += skip) {
            const uint8_t *end = x + taps;
            do {
                if (next_bit(&place)) {
                    take(&place, *x, x[apart], &sum_a, &sum_b);
                }
            } while (++x != end);
        }
        keep(sums, sum_a, larger);
        keep((sum_t *)(void *)((uint8_t *)sums + window.pitch), sum_b, larger || window.pitch == 0);
    }
}
#endif

#if PADDED || !PAIRED
/* The sums of one window, or the part of it that lies inside. */
INLINE void bitmap_alone(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger, take_next *take)
{
#if PADDED
    unsigned above = edge.above, before = edge.before;
#else
    unsigned above = 0, before = 0;
#endif
    struct bitmap place = {weights, 1, 1};
    unsigned taps = ALONE(taps), row_bytes = taps + ALONE(skip);
    for (unsigned channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum = 0, none = 0; /* of a window that is not there */
        const uint8_t *begin = a;
        for (unsigned row = 0; row < window.rows; row++) {
            uint8_t inside = row - above < ALONE(rows);
            unsigned tap = 0 - before; /* modulo: one outside is not below taps either */
            for (unsigned rest = window.taps; rest > 0; rest--, tap++) {
                if (next_bit(&place)) {
                    take(&place, inside && tap < taps ? begin[tap] : 0, 0, &sum, &none);
                }
            }
            if (inside) {
                begin += row_bytes;
            }
        }
        keep(sums, sum, larger);
    }
}
#endif

/* kernel sums_bitmap (uses bitmap) */
/* Weights of eight bits, of which a bitmap says where they are. */
INLINE void take_byte(struct bitmap *place, int x, int y, sum_t *sum_x, sum_t *sum_y)
{
    int weight = (int8_t)BYTE(place->next++);
#if defined(__riscv) && !defined(__riscv_mul)
    if (weight < 0) {
        weight = -weight;
        x = -x;
        y = -y;
    }
    for (; weight != 0; weight >>= 1, x *= 2, y *= 2) {
        if (weight & 1) {
            *sum_x += x;
            *sum_y += y;
        }
    }
#else
    *sum_x += weight * x;
    *sum_y += weight * y;
#endif
}

#if PAIRED && defined(__AVR__)
#ifdef __AVR_HAVE_MUL__
#define BYTE_PRODUCTS "lpm r18, Z+ \n\t" BOTH_PRODUCTS
#else /* 256 times the taps less if the weight is negative; then as if it were not, bit by bit */
#define BYTE_PRODUCTS \
    "lpm r18, Z+ \n\t" \
    "clr r17 \n\t" \
    "clr r12 \n\t" \
    "sbrs r18, 7 \n\t" \
    "rjmp 6f \n\t" \
    "sub r3, r16 \n\t" \
    "sbc r4, __zero_reg__ \n\t" TOP_BYTE("sbc r5, __zero_reg__ \n\t") \
    "sub r9, r19 \n\t" \
    "sbc r10, __zero_reg__ \n\t" TOP_BYTE("sbc r11, __zero_reg__ \n\t") "\n" \
    "6: lsr r18 \n\t" \
    "brcc 7f \n\t" \
    BOTH_TAPS("add", "adc") "\n" \
    "7: " DOUBLE_TAPS \
    "tst r18 \n\t" \
    "brne 6b \n"
#endif
#endif

KERNEL void sums_bitmap(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
#ifdef __AVR__
        BITMAP_TOGETHER(BYTE_PRODUCTS)
#else
        bitmap_together(a, b, weights, sums, larger, take_byte);
#endif
        return;
    }
#else
    (void)b;
#endif
#if PADDED || !PAIRED
    bitmap_alone(a, weights, sums, larger, take_byte);
#endif
}

/* kernel sums_nibble_bitmap (uses nibble, bitmap) */
/* Weights of four bits, of which a bitmap says where they are: two in a byte, low half first, which lies where the first would alone. */
INLINE void take_half(struct bitmap *place, int x, int y, sum_t *sum_x, sum_t *sum_y)
{
    unsigned halves = place->halves == 1 ? next_byte(&place->next) : place->halves;
    place->halves = halves >> 4;
    add_products(high_nibble((uint8_t)(halves << 4)), x, y, sum_x, sum_y);
}

#if PAIRED && defined(__AVR__)
/* Assembly: the next weight comes to the high half of r7; bit 0 of r13 says that a byte was read for it. */
#define NEXT_HALF \
    "inc r13 \n\t" \
    "sbrc r13, 0 \n\t" \
    "lpm r7, Z+ \n\t" \
    "swap r7 \n\t"
#ifdef __AVR_HAVE_MUL__
#define HALF_PRODUCTS \
    NEXT_HALF \
    "mov r18, r7 \n\t" \
    "asr r18 \n\t" \
    "asr r18 \n\t" \
    "asr r18 \n\t" \
    "asr r18 \n\t" \
    BOTH_PRODUCTS
#else
#define HALF_PRODUCTS \
    NEXT_HALF \
    "clr r17 \n\t" \
    "clr r12 \n\t" \
    "sbrs r7, 4 \n\t" \
    "rjmp 6f \n\t" \
    BOTH_TAPS("add", "adc") "\n" \
    "6: " DOUBLE_TAPS \
    "sbrs r7, 5 \n\t" \
    "rjmp 6f \n\t" \
    BOTH_TAPS("add", "adc") "\n" \
    "6: " DOUBLE_TAPS \
    "sbrs r7, 6 \n\t" \
    "rjmp 6f \n\t" \
    BOTH_TAPS("add", "adc") "\n" \
    "6: " DOUBLE_TAPS \
    "sbrs r7, 7 \n\t" \
    "rjmp 5f \n\t" \
    BOTH_TAPS("sub", "sbc") "\n"
#endif
#endif

KERNEL void sums_nibble_bitmap(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PAIRED
    if (b != 0) {
#ifdef __AVR__
        BITMAP_TOGETHER(HALF_PRODUCTS)
#else
        bitmap_together(a, b, weights, sums, larger, take_half);
#endif
        return;
    }
#else
    (void)b;
#endif
#if PADDED || !PAIRED
    bitmap_alone(a, weights, sums, larger, take_half);
#endif
}

/* kernel unrolled (uses keep) */
/*
 * But for AVRs: a convolution, and the max pool behind it if there is one, as code for one layer; with sums as convolve has them. sum_up
 * sums up a window with straight-line code; right is the way from a window to the next one of a pool; down, across and below are those
 * from where such a row, a pool and a row of pools end to where the next one begins.
 */
#define CONVOLVE(sum_up, heads, height, width, channels, wide, pool_height, pool_width, right, down, across, below) \
    for (uint8_t y = height; y > 0; y--, in += below) { \
        for (uint8_t x = width; x > 0; x--, in += across) { \
            uint8_t larger = 0; \
            for (uint8_t v = pool_height; v > 0; v--, in += down) { \
                for (uint8_t u = pool_width; u > 0; u--, in += right, larger = 1) { \
                    sum_up(in, sums, larger); \
                } \
            } \
            out = requantise(out, sums, heads, channels, wide); \
        } \
    }

/*
 * Straight-line code: SUMS(count, commands) sums up the next count channels of the window at a. Among its commands,
 * TAP(offset) takes an input, PLUS(channel, weight) and MINUS add a multiple of it to a sum; WORD(offset) takes four, QUAD(channel,
 * weights) adds a multiple of each, EVEN of the first and the third, ODD of the others; AHEAD and BACK move a. Four weights lie in two
 * words of a table: the first and the third, the second and the fourth.
 */
#ifdef FOR_AVR
/*
 * There a whole layer is one function, of more commands (unroll_avr.py); sums are where a pool keeps the largest of a channel. Registers:
 * six sums of two bytes, r2 to r13, with their third bytes, r18 to r23; a tap r17; a weight or an output r16; zero r15; rounds that are
 * left: of the windows of a pool r14 and r25, of a row of outputs r24, of the rows on the stack; Z in, X out, Y sums.
 */
#ifdef __AVR__
#define LOW_0 "r2"
#define LOW_1 "r4"
#define LOW_2 "r6"
#define LOW_3 "r8"
#define LOW_4 "r10"
#define LOW_5 "r12"
#define MIDDLE_0 "r3"
#define MIDDLE_1 "r5"
#define MIDDLE_2 "r7"
#define MIDDLE_3 "r9"
#define MIDDLE_4 "r11"
#define MIDDLE_5 "r13"
#define HIGH_0 "r18"
#define HIGH_1 "r19"
#define HIGH_2 "r20"
#define HIGH_3 "r21"
#define HIGH_4 "r22"
#define HIGH_5 "r23"
#define AHEAD(bytes) "subi r30, lo8(-(" #bytes ")) \n\t sbci r31, hi8(-(" #bytes ")) \n\t"
#define BACK(bytes) "subi r30, lo8(" #bytes ") \n\t sbci r31, hi8(" #bytes ") \n\t"
#define NEXT(count) "subi r28, lo8(-3*(" #count ")) \n\t sbci r29, hi8(-3*(" #count ")) \n\t"
#define BIAS2(channel, bias) "ldi r16, lo8(" #bias ") \n\t ldi r17, hi8(" #bias ") \n\t movw " LOW_##channel ", r16 \n\t"
#define BIAS3(channel, bias) BIAS2(channel, bias) "ldi " HIGH_##channel ", hlo8(" #bias ") \n\t"
#define TAP(offset) "ldd r17, Z+" #offset " \n\t"
#define TIMES(weight) "ldi r16, " #weight " \n\t mul r17, r16 \n\t"
#define PLUS2(channel) "add " LOW_##channel ", r0 \n\t adc " MIDDLE_##channel ", r1 \n\t"
#define PLUS(channel) PLUS2(channel) "adc " HIGH_##channel ", r15 \n\t"
#define MINUS2(channel) "sub " LOW_##channel ", r0 \n\t sbc " MIDDLE_##channel ", r1 \n\t"
#define MINUS(channel) MINUS2(channel) "sbc " HIGH_##channel ", r15 \n\t"
#define MORE2(channel) "add " LOW_##channel ", r17 \n\t adc " MIDDLE_##channel ", r15 \n\t"
#define MORE(channel) MORE2(channel) "adc " HIGH_##channel ", r15 \n\t"
#define LESS2(channel) "sub " LOW_##channel ", r17 \n\t sbc " MIDDLE_##channel ", r15 \n\t"
#define LESS(channel) LESS2(channel) "sbc " HIGH_##channel ", r15 \n\t"
#define STORE(channel, place) \
    "std Y+3*" #place ", " LOW_##channel " \n\t" \
    "std Y+3*" #place "+1, " MIDDLE_##channel " \n\t" \
    "std Y+3*" #place "+2, " HIGH_##channel " \n\t"
/* Keeps a sum: past the negative ones, those that are larger. */
#define LARGEST(channel, place, code) code
#define POSITIVE2(channel) "sbrc " MIDDLE_##channel ", 7 \n\t rjmp 9f \n\t"
#define POSITIVE3(channel) "sbrc " HIGH_##channel ", 7 \n\t rjmp 9f \n\t"
#define LARGER2(channel, place) \
    "ldd r16, Y+3*" #place " \n\t" \
    "cp r16, " LOW_##channel " \n\t" \
    "ldd r16, Y+3*" #place "+1 \n\t" \
    "cpc r16, " MIDDLE_##channel " \n\t" \
    "brsh 9f \n\t" \
    "std Y+3*" #place ", " LOW_##channel " \n\t" \
    "std Y+3*" #place "+1, " MIDDLE_##channel " \n" \
    "9: \n\t"
#define LARGER3(channel, place) \
    "ldd r16, Y+3*" #place " \n\t" \
    "cp r16, " LOW_##channel " \n\t" \
    "ldd r16, Y+3*" #place "+1 \n\t" \
    "cpc r16, " MIDDLE_##channel " \n\t" \
    "ldd r16, Y+3*" #place "+2 \n\t" \
    "cpc r16, " HIGH_##channel " \n\t" \
    "brsh 9f \n\t" STORE(channel, place) "\n" \
    "9: \n\t"
#define TAKE2(place) \
    "ldd r2, Y+3*" #place " \n\t" \
    "ldd r3, Y+3*" #place "+1 \n\t" \
    "std Y+3*" #place ", r15 \n\t" \
    "std Y+3*" #place "+1, r15 \n\t"
#define TAKE3(place) TAKE2(place) "ldd r18, Y+3*" #place "+2 \n\t std Y+3*" #place "+2, r15 \n\t"
/* Requantises a sum, that of channel 0 where it was kept: the product's bytes from the second on are r17, the sum's first and third. */
#define PUT(channel, multiplier, shift, code) code "\n 9: st X+, r16 \n\t"
#define RELU2(channel) "clr r16 \n\t" POSITIVE2(channel)
#define RELU3(channel) "clr r16 \n\t" POSITIVE3(channel)
#define ZERO(channel) "clr " HIGH_##channel " \n\t"
#define SCALE2(channel, multiplier) \
    "ldi r16, " #multiplier " \n\t" \
    "mul " LOW_##channel ", r16 \n\t" \
    "mov r17, r1 \n\t" \
    "mul " MIDDLE_##channel ", r16 \n\t" \
    "add r17, r0 \n\t" \
    "adc r1, r15 \n\t" \
    "mov " LOW_##channel ", r1 \n\t"
#define SCALE3(channel, multiplier) \
    "ldi r16, " #multiplier " \n\t" \
    "mul " LOW_##channel ", r16 \n\t" \
    "mov r17, r1 \n\t" \
    "mul " HIGH_##channel ", r16 \n\t" \
    "mov " LOW_##channel ", r0 \n\t" \
    "mov " HIGH_##channel ", r1 \n\t" \
    "mul " MIDDLE_##channel ", r16 \n\t" \
    "add r17, r0 \n\t" \
    "adc " LOW_##channel ", r1 \n\t" \
    "adc " HIGH_##channel ", r15 \n\t"
#define LEFT2(channel) "lsl r17 \n\t rol " LOW_##channel " \n\t"
#define LEFT3(channel) LEFT2(channel) "rol " HIGH_##channel " \n\t"
#define RIGHT(channel) "lsr " HIGH_##channel " \n\t ror " LOW_##channel " \n\t"
#define CARRY3(channel) "adc " LOW_##channel ", r15 \n\t adc " HIGH_##channel ", r15 \n\t"
#define CARRY2(channel) "adc " LOW_##channel ", r15 \n\t mov r16, " LOW_##channel " \n\t"
#define ROUND3(channel) "lsl r17 \n\t" CARRY3(channel)
#define ROUND2(channel) "lsl r17 \n\t" CARRY2(channel)
#define LIMIT(channel) "mov r16, " LOW_##channel " \n\t cpse " HIGH_##channel ", r15 \n\t ldi r16, 255 \n\t"
/* The same for any shift: the product's bytes are r17, and the sum's. */
#define MULTIPLY(channel, multiplier) \
    "ldi r16, " #multiplier " \n\t" \
    "mul " LOW_##channel ", r16 \n\t" \
    "mov r17, r0 \n\t" \
    "mov " LOW_##channel ", r1 \n\t" \
    "mul " MIDDLE_##channel ", r16 \n\t" \
    "add " LOW_##channel ", r0 \n\t" \
    "mov " MIDDLE_##channel ", r1 \n\t" \
    "adc " MIDDLE_##channel ", r15 \n\t" \
    "mul " HIGH_##channel ", r16 \n\t" \
    "add " MIDDLE_##channel ", r0 \n\t" \
    "mov " HIGH_##channel ", r1 \n\t" \
    "adc " HIGH_##channel ", r15 \n\t"
#define ONE_BIT(channel) \
    "lsr " HIGH_##channel " \n\t" \
    "ror " MIDDLE_##channel " \n\t" \
    "ror " LOW_##channel " \n\t" \
    "ror r17 \n\t"
#define SHIFT(channel, bits) "ldi r16, " #bits " \n 8: " ONE_BIT(channel) "dec r16 \n\t brne 8b \n\t"
#define HALF(channel) \
    "sec \n\t" \
    "adc r17, r15 \n\t" \
    "adc " LOW_##channel ", r15 \n\t" \
    "adc " MIDDLE_##channel ", r15 \n\t" \
    "adc " HIGH_##channel ", r15 \n\t" ONE_BIT(channel)
#define LIMIT4(channel) \
    "or " LOW_##channel ", " MIDDLE_##channel " \n\t" \
    "or " LOW_##channel ", " HIGH_##channel " \n\t" \
    "mov r16, r17 \n\t" \
    "cpse " LOW_##channel ", r15 \n\t" \
    "ldi r16, 255 \n\t"
#define IF_SEVERAL(count, code) ".if " #count " > 1 \n\t" code ".endif \n\t"
#define ROUNDS(label, move, counter) move "dec " counter " \n\t breq 5f \n\t %~jmp " label "b \n 5: \n\t"
#define LAYER(height, width, pool_height, pool_width, kept, window, right, down, puts, across, below) \
    { \
        register sum_t *place_ __asm__("r20") = sums; \
        __asm__ volatile("push r28 \n\t" \
                         "push r29 \n\t" \
                         "movw r28, r20 \n\t" \
                         "clr r15 \n\t" \
                         ".if " #kept " \n\t" \
                         "movw r16, r30 \n\t" \
                         "movw r30, r28 \n\t" \
                         "ldi r24, lo8(3*" #kept ") \n\t" \
                         "ldi r25, hi8(3*" #kept ") \n" \
                         "1: st Z+, r15 \n\t" \
                         "sbiw r24, 1 \n\t" \
                         "brne 1b \n\t" \
                         "movw r30, r16 \n\t" \
                         ".endif \n\t" \
                         IF_SEVERAL(height, "ldi r16, " #height " \n\t push r16 \n 1: \n\t") \
                         IF_SEVERAL(width, "ldi r24, " #width " \n 2: \n\t") \
                         IF_SEVERAL(pool_height, "ldi r25, " #pool_height " \n 3: \n\t") \
                         IF_SEVERAL(pool_width, "ldi r16, " #pool_width " \n\t mov r14, r16 \n 4: \n\t") \
                         window \
                         IF_SEVERAL(pool_width, ROUNDS("4", right, "r14")) \
                         IF_SEVERAL(pool_height, ROUNDS("3", down, "r25")) \
                         puts \
                         IF_SEVERAL(width, ROUNDS("2", across, "r24")) \
                         IF_SEVERAL(height, below "pop r16 \n\t dec r16 \n\t breq 5f \n\t push r16 \n\t %~jmp 1b \n 5: \n\t") \
                         "pop r29 \n\t" \
                         "pop r28 \n\t" \
                         "clr __zero_reg__" \
                         : "+z"(in), "+x"(out), "+r"(place_) \
                         : \
                         : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "r16", \
                           "r17", "r18", "r19", "r22", "r23", "r24", "r25", "memory"); \
        (void)requantise; /* which only layers with outputs of 16 bits need */ \
    }
#else
#define AHEAD(bytes) in += bytes;
#define BACK(bytes) in -= bytes;
#define NEXT(count) sums += count;
#define BIAS2(channel, bias) sum_##channel = bias;
#define BIAS3(channel, bias) sum_##channel = bias;
#define TAP(offset) tap = in[offset];
#define TIMES(weight) product = weight * tap;
#define PLUS2(channel) sum_##channel += product;
#define PLUS(channel) sum_##channel += product;
#define MINUS2(channel) sum_##channel -= product;
#define MINUS(channel) sum_##channel -= product;
#define MORE2(channel) sum_##channel += tap;
#define MORE(channel) sum_##channel += tap;
#define LESS2(channel) sum_##channel -= tap;
#define LESS(channel) sum_##channel -= tap;
#define STORE(channel, place) keep(&sums[place], sum_##channel, 0);
#define LARGEST(channel, place, code) keep(&sums[place], sum_##channel, 1);
#define TAKE2(place) sum_0 = sums[place], sums[place] = 0;
#define TAKE3(place) sum_0 = sums[place], sums[place] = 0;
#define PUT(channel, multiplier, shift, code) out = clamped(out, scaled(sum_##channel * multiplier, shift), 0);
#define LAYER(height, width, pool_height, pool_width, kept, window, right, down, puts, across, below) \
    { \
        sum_t sum_0 = 0, sum_1 = 0, sum_2 = 0, sum_3 = 0, sum_4 = 0, sum_5 = 0; \
        int tap = 0, product = 0; \
        (void)tap, (void)product, (void)sum_0, (void)sum_1, (void)sum_2, (void)sum_3, (void)sum_4, (void)sum_5; \
        (void)in, (void)out, (void)sums; \
        for (sum_t *place = sums, *end = sums + kept; place != end; place++) { \
            keep(place, 0, 0); \
        } \
        for (uint8_t y = height; y > 0; y--) { \
            for (uint8_t x = width; x > 0; x--) { \
                for (uint8_t v = pool_height; v > 0; v--) { \
                    for (uint8_t u = pool_width; u > 0; u--) { \
                        window right \
                    } \
                    down \
                } \
                puts across \
            } \
            below \
        } \
        (void)requantise; \
    }
#endif
#else
#define NEW_1 sum_t sum_0 = 0;
#define NEW_2 NEW_1 sum_t sum_1 = 0;
#define NEW_3 NEW_2 sum_t sum_2 = 0;
#define NEW_4 NEW_3 sum_t sum_3 = 0;
#define NEW_5 NEW_4 sum_t sum_4 = 0;
#define NEW_6 NEW_5 sum_t sum_5 = 0;
#define KEEP_1 keep(sums++, sum_0, larger);
#define KEEP_2 KEEP_1 keep(sums++, sum_1, larger);
#define KEEP_3 KEEP_2 keep(sums++, sum_2, larger);
#define KEEP_4 KEEP_3 keep(sums++, sum_3, larger);
#define KEEP_5 KEEP_4 keep(sums++, sum_4, larger);
#define KEEP_6 KEEP_5 keep(sums++, sum_5, larger);
#if (defined(__arm__) || defined(__riscv_mul)) && !defined(__clang__)
#ifdef __ARM_ARCH_6M__
#define REGISTER "+l" /* low ones */
#else
#define REGISTER "+r"
#endif
#define SUMS_1 [sum_0] REGISTER(sum_0)
#define SUMS_2 SUMS_1, [sum_1] REGISTER(sum_1)
#define SUMS_3 SUMS_2, [sum_2] REGISTER(sum_2)
#define SUMS_4 SUMS_3, [sum_3] REGISTER(sum_3)
#define SUMS_5 SUMS_4, [sum_4] REGISTER(sum_4)
#define SUMS_6 SUMS_5, [sum_5] REGISTER(sum_5)
#endif
#if defined(FOR_THUMB1) && defined(__ARM_ARCH_6M__) && !defined(__clang__)
#define TAP(offset) "ldrb %[tap], [%[a], #" #offset "] \n\t"
#define AHEAD(bytes) "add %[a], #" #bytes " \n\t"
#define BACK(bytes) "sub %[a], #" #bytes " \n\t"
#define PLUS(channel, weight) \
    "mov %[product], #" #weight " \n\t" \
    "mul %[product], %[tap] \n\t" \
    "add %[sum_" #channel "], %[product] \n\t"
#define MINUS(channel, weight) \
    "mov %[product], #" #weight " \n\t" \
    "mul %[product], %[tap] \n\t" \
    "sub %[sum_" #channel "], %[product] \n\t"
#define SUMS(count, commands) \
    { \
        uint32_t tap_, product_; \
        NEW_##count \
        __asm__(commands "" : SUMS_##count, [a] "+l"(a), [tap] "=&l"(tap_), [product] "=&l"(product_) : : "cc", "memory"); \
        KEEP_##count \
    }
#elif defined(FOR_DSP) && defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && !defined(__clang__)
#define WORD(offset) \
    "ldr.w %[odd], [%[a], #" #offset "] \n\t" \
    "uxtb16 %[even], %[odd] \n\t" \
    "uxtb16 %[odd], %[odd], ror #8 \n\t"
#define QUAD(channel, first, second, third, fourth) \
    "ldrd %[first], %[second], [%[weights]], #8 \n\t" \
    "smlad %[sum_" #channel "], %[even], %[first], %[sum_" #channel "] \n\t" \
    "smlad %[sum_" #channel "], %[odd], %[second], %[sum_" #channel "] \n\t"
#define EVEN(channel, first, third) \
    "ldr.w %[first], [%[weights]], #4 \n\t" \
    "smlad %[sum_" #channel "], %[even], %[first], %[sum_" #channel "] \n\t"
#define ODD(channel, second, fourth) \
    "ldr.w %[first], [%[weights]], #4 \n\t" \
    "smlad %[sum_" #channel "], %[odd], %[first], %[sum_" #channel "] \n\t"
#define AHEAD(bytes) "addw %[a], %[a], #" #bytes " \n\t"
#define BACK(bytes) "subw %[a], %[a], #" #bytes " \n\t"
#define SUMS(count, commands) \
    { \
        uint32_t even_, odd_, first_, second_; \
        NEW_##count \
        __asm__(commands "" \
                : SUMS_##count, [a] "+r"(a), [weights] "+r"(weights), [even] "=&r"(even_), [odd] "=&r"(odd_), \
                  [first] "=&r"(first_), [second] "=&r"(second_) \
                : \
                : "memory"); \
        KEEP_##count \
    }
#elif defined(FOR_THUMB2) && defined(__thumb2__) && !defined(__clang__)
#define TAP(offset) "ldrb.w %[tap], [%[a], #" #offset "] \n\t"
#define AHEAD(bytes) "addw %[a], %[a], #" #bytes " \n\t"
#define BACK(bytes) "subw %[a], %[a], #" #bytes " \n\t"
#define PLUS(channel, weight) \
    "mov.w %[product], #" #weight " \n\t" \
    "mla %[sum_" #channel "], %[product], %[tap], %[sum_" #channel "] \n\t"
#define MINUS(channel, weight) \
    "mov.w %[product], #" #weight " \n\t" \
    "mls %[sum_" #channel "], %[product], %[tap], %[sum_" #channel "] \n\t"
#define SUMS(count, commands) \
    { \
        uint32_t tap_, product_; \
        NEW_##count \
        __asm__(commands "" : SUMS_##count, [a] "+r"(a), [tap] "=&r"(tap_), [product] "=&r"(product_) : : "memory"); \
        KEEP_##count \
    }
#elif defined(FOR_RISCV) && defined(__riscv_mul) && !defined(__clang__)
#define TAP(offset) "lbu %[tap], " #offset "(%[a]) \n\t"
#define AHEAD(bytes) "add %[a], %[a], " #bytes " \n\t"
#define BACK(bytes) "add %[a], %[a], -" #bytes " \n\t"
#define PLUS(channel, weight) \
    "li %[product], " #weight " \n\t" \
    "mul %[product], %[product], %[tap] \n\t" \
    "add %[sum_" #channel "], %[sum_" #channel "], %[product] \n\t"
#define MINUS(channel, weight) PLUS(channel, -weight)
#define SUMS(count, commands) \
    { \
        uint32_t tap_, product_; \
        NEW_##count \
        __asm__(commands "" : SUMS_##count, [a] "+r"(a), [tap] "=&r"(tap_), [product] "=&r"(product_) : : "memory"); \
        KEEP_##count \
    }
#else
#define TAP(offset) tap = a[offset];
#define WORD(offset) word = a + offset;
#define QUAD(channel, first, second, third, fourth) EVEN(channel, first, third) ODD(channel, second, fourth)
#define EVEN(channel, first, third) sum_##channel += first * word[0] + third * word[2];
#define ODD(channel, second, fourth) sum_##channel += second * word[1] + fourth * word[3];
#define AHEAD(bytes) a += bytes;
#define BACK(bytes) a -= bytes;
#define PLUS(channel, weight) sum_##channel += weight * tap;
#define MINUS(channel, weight) sum_##channel -= weight * tap;
#define SUMS(count, commands) \
    { \
        const uint8_t *word = a; \
        int tap = 0; \
        (void)word, (void)tap; \
        NEW_##count \
        commands \
        KEEP_##count \
    }
#endif
#endif

/* kernel sums_depthwise (uses kept) */
/* Every channel of the output sums up taps of the same channel of the input. Windows come one by one. */
KERNEL void sums_depthwise(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    (void)b;
    uint16_t channels = window.channels;
#if PADDED
    weights += edge.weights_first;
#endif
    for (uint16_t channel = channels; channel > 0; channel--, a++, sums++) {
        sum_t sum = 0;
        const uint8_t *begin = a;
        for (uint16_t row = ALONE(rows); row > 0; row--) {
            for (uint16_t tap = 0; tap < ALONE(taps); tap = (uint16_t)(tap + channels)) {
                sum += (int16_t)((int8_t)BYTE(weights)) * begin[tap];
                weights++;
            }
            begin += (uint16_t)(ALONE(taps) + ALONE(skip));
#if PADDED
            weights += edge.weights_skip;
#endif
        }
#if PADDED
        weights += edge.weights_rest;
#endif
        keep(sums, sum, larger);
    }
}

/* kernel pool */
/* A pool. Its stride is its window, and what does not fill a window is not read. */
struct pool {
    uint16_t height, width;               /* of the output */
    uint16_t kernel_height, kernel_width; /* of a window */
    uint16_t channels, taps;              /* of the input; taps: bytes of a row of a window */
    uint16_t skip;                        /* bytes from the last tap of a row to the next row */
    uint16_t multiplier, shift;           /* of an average */
};

/* Computes a layer: value of every window, channel by channel. */
INLINE void pool(const struct pool *layer, const uint8_t *in, uint8_t *out,
                 uint8_t (*value)(const struct pool *pool, const uint8_t *corner))
{
#ifdef __AVR__
    struct pool copy; /* from flash every field takes longer to read */
    for (uint8_t byte = 0; byte < sizeof copy; byte++) {
        ((uint8_t *)&copy)[byte] = BYTE((const uint8_t *)layer + byte);
    }
    const struct pool *pool = &copy;
#else
    const struct pool *pool = layer;
#endif
    for (uint16_t y = pool->height; y > 0; y--) {
        const uint8_t *corner = in;
        for (uint16_t x = pool->width; x > 0; x--) {
            for (uint16_t channel = pool->channels; channel > 0; channel--) {
                *out++ = value(pool, corner++);
            }
            corner += pool->taps - pool->channels;
        }
        in += (uint16_t)((unsigned)pool->kernel_height * (uint16_t)(pool->taps + pool->skip));
    }
}

/* kernel max_pool (uses pool) */
INLINE uint8_t largest_of(const struct pool *pool, const uint8_t *corner)
{
    uint8_t largest = 0;
    for (uint16_t row = pool->kernel_height; row > 0; row--, corner += pool->skip) {
        for (const uint8_t *end = corner + pool->taps; corner != end; corner += pool->channels) {
            largest = *corner > largest ? *corner : largest;
        }
    }
    return largest;
}

KERNEL void max_pool(const struct pool *layer, const uint8_t *in, uint8_t *out)
{
    pool(layer, in, out, largest_of);
}

/* kernel average_pool (uses scaled, pool) */
/* The mean of a window: sum * multiplier >> shift, rounded. */
INLINE uint8_t mean_of(const struct pool *pool, const uint8_t *corner)
{
#ifdef __AVR__
    uint8_t value;
    __uint24 total = 0;
    uint16_t column, row = pool->kernel_height;
    __asm__ volatile("1: movw %[column], %[columns] \n"
                     "2: ld %[value], X \n\t"
                     "add r26, %A[step] \n\t"
                     "adc r27, %B[step] \n\t"
                     "add %A[total], %[value] \n\t"
                     "adc %B[total], __zero_reg__ \n\t"
                     "adc %C[total], __zero_reg__ \n\t"
                     "sbiw %[column], 1 \n\t"
                     "brne 2b \n\t"
                     "add r26, %A[skip] \n\t"
                     "adc r27, %B[skip] \n\t"
                     "subi %A[row], 1 \n\t"
                     "sbci %B[row], 0 \n\t"
                     "brne 1b"
                     : [total] "+r"(total), [row] "+d"(row), "+x"(corner), [column] "=&w"(column), [value] "=&r"(value)
                     : [columns] "r"(pool->kernel_width), [step] "r"(pool->channels), [skip] "r"(pool->skip)
                     : "memory");
    int32_t sum = (int32_t)total;
#else
    int32_t sum = 0;
    for (unsigned row = pool->kernel_height; row > 0; row--, corner += pool->skip) {
        for (const uint8_t *end = corner + pool->taps; corner != end; corner += pool->channels) {
            sum += *corner;
        }
    }
#endif
    if (pool->multiplier != 1) { /* it is 1 for windows of two, four, eight */
        sum *= pool->multiplier;
    }
    sum = scaled(sum, (uint8_t)pool->shift);
    return (uint8_t)(sum > 255 ? 255 : sum);
}

KERNEL void average_pool(const struct pool *layer, const uint8_t *in, uint8_t *out)
{
    pool(layer, in, out, mean_of);
}

/* kernel mean */
/*
 * An average pool as code for one layer: mean is that of the window at in; columns and rows are the bytes from the last channel of a
 * window to the next window, and from there to the next row of windows.
 */
#define MEANS(height, width, channels, columns, rows, mean) \
    for (uint8_t y = height; y > 0; y--, in += rows) { \
        for (uint8_t x = width; x > 0; x--, in += columns) { \
            for (uint16_t channel = channels; channel > 0; channel--, in++) { \
                *out++ = mean; \
            } \
        } \
    }
#define MEAN(total, shift) (uint8_t)(((uint16_t)(total) + (1 << shift >> 1)) >> shift)

/* kernel scaled_mean (uses scaled, mean) */
INLINE uint8_t scaled_mean(uint16_t total, uint16_t multiplier, uint8_t shift)
{
    int32_t mean = scaled((int32_t)total * multiplier, shift);
    return (uint8_t)(mean > 255 ? 255 : mean);
}

/* kernel add (uses scaled) */
/* The weighted sum of two tensors or more, element by element. */
struct operand {
    const uint8_t *tensor;
    uint16_t multiplier; /* at most 32767 */
    uint16_t wide;       /* 1: int16, 0: uint8 */
};

struct add {
    const struct operand *operands;
    uint16_t count;    /* of operands */
    uint16_t elements; /* of each tensor */
    uint16_t shift;
    uint16_t wide;
};

KERNEL void add(const struct add *layer, uint8_t *out)
{
    uint16_t elements = FIELD(layer, elements);
    for (uint16_t element = 0; element < elements; element++) {
        const struct operand *operand = (const struct operand *)FIELD(layer, operands);
        int32_t sum = 0;
        for (uint16_t rest = FIELD(layer, count); rest > 0; rest--, operand++) {
            const uint8_t *tensor = (const uint8_t *)FIELD(operand, tensor);
            int16_t value = FIELD(operand, wide) ? ((const int16_t *)(const void *)tensor)[element] : tensor[element];
            sum += (int32_t)value * (int16_t)FIELD(operand, multiplier);
        }
        out = clamped(out, scaled(sum, (uint8_t)FIELD(layer, shift)), FIELD(layer, wide));
    }
}
