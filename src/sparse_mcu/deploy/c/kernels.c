/*
 * The kernels of sparse-mcu: the integer arithmetic of docs/integer-arithmetic.md in C99, for cores from 8 bits up.
 *
 * Code generation pastes the sections that a network needs, in this order, into its source; a section opens with a line
 * "kernel NAME" or "kernel NAME (uses NAMES)". Compiled as it stands, the file has every kernel.
 *
 * Tensors are height, width, channels. A layer is a constant descriptor, which lies in flash and is read through FIELD; all its
 * numbers are uint16_t, and so are the places within a tensor. Its weights are a stream of bytes in flash, read through BYTE, in the
 * order in which the kernel sums_... of the layer takes them; its heads hold the bias (SUM_BYTES, little endian, signed), the
 * multiplier (1 byte) and the shift (1 byte) of every output channel. No sum or product overflows an int32: quant/verify.py has
 * proved it; and no sum of a network whose SUM_BYTES is 3 overflows 24 bits.
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
#if defined(__GNUC__) && !defined(__clang__)
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
#ifndef SUM_BYTES /* generated code says both before its first kernel */
#define SUM_BYTES 4
#define PADDED 1
#endif

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
KERNEL int32_t scaled(int32_t product, uint8_t shift)
{
    return shift == 0 ? product : ((product >> (shift - 1)) + 1) >> 1; /* half up */
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
    *out = (uint8_t)(value < 0 ? 0 : value > UINT8_MAX ? UINT8_MAX : value);
    return out + 1;
}

/* kernel requantise (uses scaled) */
#if defined(__AVR__) && SUM_BYTES == 3
typedef __int24 sum_t;
#else
typedef int32_t sum_t;
#endif
#define HEAD_BYTES (SUM_BYTES + 2) /* of an output channel: bias (little endian, signed), multiplier, shift */

#ifndef __AVR_HAVE_MUL__
/* Returns the bias at head. */
INLINE int32_t read_bias(const uint8_t *head)
{
    uint32_t bias = 0;
    for (uint8_t byte = 0; byte < SUM_BYTES; byte++) {
        bias |= (uint32_t)BYTE(head + byte) << (32 - 8 * SUM_BYTES + 8 * byte);
    }
    return (int32_t)bias >> (32 - 8 * SUM_BYTES);
}
#endif

/* Brings the sums of so many channels back to small integers, at out; returns the next place. */
KERNEL uint8_t *requantise(uint8_t *out, const sum_t *sums, const uint8_t *heads, uint16_t channels, uint16_t wide)
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
#else
        "mov r15, r14 \n\t"
        "lsl r15 \n\t"
        "sbc r15, r15 \n\t"
#endif
        "lpm r18, Z+ \n\t"
        "lpm r20, Z+ \n\t"
        "brts 2f \n\t"
        "clr r22 \n\t"
        "sbrc r15, 7 \n\t"
        "rjmp 3f \n" /* below zero: a ReLU has nothing to compute */
        "2: mul r12, r18 \n\t"
        "movw r22, r0 \n\t"
        "mul r14, r18 \n\t"
        "movw r24, r0 \n\t"
        "mul r15, r18 \n\t"
        "add r25, r0 \n\t"
        "mul r13, r18 \n\t"
        "add r23, r0 \n\t"
        "adc r24, r1 \n\t"
        "clr __zero_reg__ \n\t"
        "adc r25, __zero_reg__ \n\t"
        "%~call %x[scaled] \n\t"
        "brts 4f \n\t"
        "or r23, r24 \n\t"
        "or r23, r25 \n\t"
        "breq 3f \n\t"
        "ldi r22, 255 \n"
        "3: st Y+, r22 \n\t"
        "rjmp 6f \n"
        "4: mov r18, r23 \n\t" /* the two upper bytes must be the sign of the lower ones */
        "lsl r18 \n\t"
        "sbc r18, r18 \n\t"
        "cp r24, r18 \n\t"
        "cpc r25, r18 \n\t"
        "breq 5f \n\t"
        "ldi r22, 255 \n\t"
        "ldi r23, 127 \n\t"
        "sbrs r25, 7 \n\t"
        "rjmp 5f \n\t"
        "com r22 \n\t"
        "com r23 \n"
        "5: st Y+, r22 \n\t"
        "st Y+, r23 \n"
        "6: subi r16, 1 \n\t"
        "sbci r17, 0 \n\t"
        "brne 1b \n\t"
        "movw r20, r28 \n\t"
        "pop r29 \n\t"
        "pop r28"
        : "+r"(place), "+x"(sums), "+z"(heads), "+r"(rest), "+r"(flag)
        : [scaled] "i"(scaled)
        : "r12", "r13", "r14", "r15", "r22", "r23", "r24", "r25", "memory");
    return place;
#else
    for (; channels > 0; channels--) {
        int32_t sum = *sums++ + read_bias(heads);
        if (sum < 0 && !wide) { /* a ReLU has nothing to compute */
            *out++ = 0;
        } else {
            out = clamped(out, scaled(sum * BYTE(heads + SUM_BYTES), BYTE(heads + SUM_BYTES + 1)), wide);
        }
        heads += HEAD_BYTES;
    }
    return out;
#endif
}

/* kernel convolve (uses requantise) */
/* The windows that are being summed up. A window is rows of taps; one that sticks out of the input has fewer of them. */
static struct {
    uint16_t rows, taps; /* rows; taps in a row, as bytes of the input */
    uint16_t skip;       /* bytes from the last tap of a row to the next row */
    uint16_t row_bytes;  /* of the input */
    uint16_t pixel;      /* bytes of a column of it */
    uint16_t channels;   /* of the output */
    uint16_t pairs;      /* half as many, rounded up */
    uint16_t pitch;      /* bytes from the sums of a window to those of the one that it is paired with */
#if PADDED
    uint16_t above, below, before;                      /* rows that stick out, and bytes on the left */
    uint16_t weights_first, weights_skip, weights_rest; /* weights of taps outside: before the first row, between rows, behind */
#endif
} window;

/*
 * Adds up the products of a window's taps with the weights of every output channel, without the bias. The window begins at a, and
 * a second one of the same shape at b, if b is not 0. Keeps the sums of the first at sums, those of the second window.pitch behind;
 * where larger is 1, or both windows share a place, only if they are larger than what is there. sums has room for an even
 * number of channels.
 */
typedef void sums_kernel(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger);

/* A convolution, and the max pool behind it if there is one: of a pool's windows only the largest sums are requantised. */
struct conv {
    void (*sums)(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger); /* sums_... */
    const uint8_t *weights, *heads;
    uint16_t height, width;          /* of the output */
    uint16_t taps;                   /* in a row of a window */
    uint16_t row_bytes, pixel;       /* of the input: bytes of a row, of a column */
    uint16_t channels;               /* of the output */
#if PADDED
    uint16_t top, left;              /* rows and columns of padding before the input */
    uint16_t in_height, in_width;
    uint16_t columns;                /* of a window */
    uint16_t weights_pixel;          /* weights of a column of a window */
#endif
    uint8_t rows;                    /* of a window */
    uint8_t down, right;             /* rows and columns from a window to the next ones */
    uint8_t pool_height, pool_width; /* windows of an output */
    uint8_t paired;                  /* 1: windows are summed up in pairs */
    uint8_t twice;                   /* 1: pairs belong to two outputs, which are requantised together; 0: to one */
    uint8_t wide;                    /* 1: outputs are int16, 0: uint8 */
};

/* Where a convolution is. */
struct cursor {
    const uint8_t *in;
    sum_t *sums;            /* of the next window */
    const uint8_t *pending; /* a window that waits for another one, since two share the work of reading weights; or 0 */
    sum_t *pending_sums;
    uint8_t larger; /* 1: the sums of another window of the same output are there */
};

/* Sums up the window at a, and that at b. */
INLINE void sum_windows(const struct conv *conv, struct cursor *cursor, const uint8_t *a, const uint8_t *b, sum_t *sums)
{
    conv->sums(a, b, conv->weights, sums, cursor->larger);
    cursor->larger = window.pitch == 0;
}

#if PADDED
#define CLIPPED ((window.weights_skip | window.weights_rest) != 0)
#define FIRST_ROW(conv) ((uint16_t)-(conv)->top)
#define FIRST_COLUMN(conv) ((uint16_t)-(conv)->left)
/* Of count places from first on: sets how many lie before 0, and returns how many lie from there to end. */
INLINE uint16_t places_inside(int16_t first, uint16_t count, uint16_t end, uint16_t *before)
{
    uint16_t rest = (uint16_t)(end - (uint16_t)first);
    *before = first < 0 ? (uint16_t)-first : 0;
    return (uint16_t)((rest < count ? rest : count) - *before);
}

/* Gives the window that begins at row top and column left its shape. */
KERNEL void clip(const struct conv *conv, int16_t top, int16_t left)
{
    uint16_t before, rows = conv->rows, columns = conv->columns;
    uint16_t weights_pixel = conv->weights_pixel;
    uint16_t weights_row = (uint16_t)((unsigned)columns * weights_pixel);
    window.rows = places_inside(top, rows, conv->in_height, &window.above);
    uint16_t within = places_inside(left, columns, conv->in_width, &before);
    window.below = (uint16_t)(rows - window.rows - window.above);
    window.taps = (uint16_t)((unsigned)within * window.pixel);
    window.skip = (uint16_t)(window.row_bytes - window.taps);
    window.before = (uint16_t)((unsigned)before * window.pixel);
    window.weights_first = (uint16_t)((unsigned)window.above * weights_row + (unsigned)before * weights_pixel);
    window.weights_skip = (uint16_t)((unsigned)(columns - within) * weights_pixel);
    window.weights_rest = (uint16_t)((unsigned)(rows - window.rows) * weights_row);
}
#else
#define CLIPPED 0
#define FIRST_ROW(conv) 0
#define FIRST_COLUMN(conv) 0
#endif

/* Sums up the window that waits for another one, if one does. */
KERNEL void flush(const struct conv *conv, struct cursor *cursor)
{
    const uint8_t *pending = cursor->pending;
    if (pending != 0) {
        cursor->pending = 0;
#if PADDED
        clip(conv, 0, 0); /* it has the shape of a window inside */
#endif
        sum_windows(conv, cursor, pending, 0, cursor->pending_sums);
    }
}

/* Sums up the window that begins at row top and column left, or lets it wait for another one. */
KERNEL void visit(const struct conv *conv, struct cursor *cursor, uint16_t top, uint16_t left)
{
#if PADDED
    clip(conv, (int16_t)top, (int16_t)left);
    top = (uint16_t)(top + window.above);
    const uint8_t *corner = cursor->in + (uint16_t)((unsigned)top * window.row_bytes + (unsigned)left * window.pixel + window.before);
#else
    const uint8_t *corner = cursor->in + (uint16_t)((unsigned)top * window.row_bytes + (unsigned)left * window.pixel);
#endif
    if (CLIPPED || !conv->paired) {
        sum_windows(conv, cursor, corner, 0, cursor->sums);
    } else if (cursor->pending == 0) {
        cursor->pending = corner;
        cursor->pending_sums = cursor->sums;
    } else {
        const uint8_t *pending = cursor->pending;
        cursor->pending = 0;
        sum_windows(conv, cursor, pending, corner, cursor->pending_sums);
    }
}

/* Computes a layer; sums is scratch: room for a sum of every channel (an even number), for two of each if the layer is twice. */
KERNEL void convolve(const struct conv *layer, const uint8_t *in, uint8_t *out, sum_t *sums)
{
#ifdef __AVR__ /* from flash every field takes longer to read */
    struct conv copy;
    for (uint8_t byte = 0; byte < sizeof copy; byte++) {
        ((uint8_t *)&copy)[byte] = BYTE((const uint8_t *)layer + byte);
    }
    const struct conv *conv = &copy;
#else
    const struct conv *conv = layer;
#endif
    struct cursor cursor = {in, sums, 0, 0, 0};
    sum_t *second = sums;
    window.rows = conv->rows;
    window.taps = conv->taps;
    window.row_bytes = conv->row_bytes;
    window.skip = (uint16_t)(window.row_bytes - window.taps);
    window.pixel = conv->pixel;
    window.channels = conv->channels;
    window.pairs = (uint16_t)((unsigned)(window.channels + 1) >> 1);
    if (conv->twice) {
        second += (uint16_t)(2 * window.pairs);
    }
    window.pitch = (uint16_t)((const uint8_t *)second - (const uint8_t *)sums);
    uint16_t row = FIRST_ROW(conv);
    for (uint16_t y = conv->height; y > 0; y--) {
        uint16_t top = row, column = FIRST_COLUMN(conv);
        for (uint16_t x = conv->width; x > 0; x--) {
            uint16_t left = column;
            row = top;
            for (uint8_t down = conv->pool_height; down > 0; down--) {
                column = left;
                for (uint8_t right = conv->pool_width; right > 0; right--) {
                    visit(conv, &cursor, row, column);
                    column = (uint16_t)(column + conv->right);
                }
                row = (uint16_t)(row + conv->down);
            }
            if (cursor.sums != second && (x > 1 || y > 1)) { /* the first output of two */
                cursor.sums = second;
                continue;
            }
            flush(conv, &cursor);
            cursor.larger = 0;
            out = requantise(out, sums, conv->heads, window.channels, conv->wide);
            if (cursor.sums != sums) {
                out = requantise(out, second, conv->heads, window.channels, conv->wide);
            }
            cursor.sums = sums;
        }
    }
}

/* kernel kept (uses convolve) */
#ifdef __AVR__
#define SYMBOL(field) [field] "i"(&window.field)
/* Assembly: keeps the sum in three or four registers at Z + offset; if T is set, only if it is larger than what is there. */
#define LOAD(register, field) "lds " #register ", %[" #field "] \n\t"
#define LOAD2(low, high, field) "lds " #low ", %[" #field "] \n\t lds " #high ", %[" #field "]+1 \n\t"
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
/* Keeps sum at place; if larger, only if it is larger than what is there. */
INLINE void keep(sum_t *place, sum_t sum, uint8_t larger)
{
    if (!larger || sum > *place) {
        *place = sum;
    }
}

/* kernel sums_dense (uses kept) */
/* The weights of two channels lie together, tap by tap; the last channel of an odd number is joined by zeros. */
#ifdef __AVR__
INLINE void dense_single(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
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
        : "r"(flags), SYMBOL(rows), SYMBOL(taps), SYMBOL(skip)
#if PADDED
        , SYMBOL(weights_skip), SYMBOL(weights_rest)
#endif
        : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r12", "r13", "r15", "r16", "r17", "r18", "r20", "r21", "memory");
}
#endif

#if defined(__AVR_HAVE_MUL__) && SUM_BYTES == 3
#define DENSE_TAP \
    "ld r16, X+ \n\t" \
    "ld r19, Y+ \n\t" \
    "lpm r18, Z+ \n\t" \
    ADD_PRODUCT(r16, r2, r3, r4, ) \
    ADD_PRODUCT(r19, r8, r9, r10, ) \
    "lpm r18, Z+ \n\t" \
    ADD_PRODUCT(r16, r5, r6, r7, ) \
    ADD_PRODUCT(r19, r11, r12, r13, )
INLINE void dense_pair(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
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
        "4: " DENSE_TAP
        "5: " DENSE_TAP
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

#ifndef __AVR__
/* The sums of two channels for two windows; returns where the next channels' weights begin. */
INLINE const uint8_t *dense_pair(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    sum_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
    for (uint16_t row = window.rows; row > 0; row--) {
        for (const uint8_t *end = a + window.taps; a != end; weights += 2) {
            int32_t first = (int8_t)weights[0], second = (int8_t)weights[1], tap_a = *a++, tap_b = *b++;
            a0 += first * tap_a;
            a1 += second * tap_a;
            b0 += first * tap_b;
            b1 += second * tap_b;
        }
        a += window.skip;
        b += window.skip;
    }
    sum_t *other = (sum_t *)(void *)((uint8_t *)sums + window.pitch);
    keep(sums, a0, larger);
    keep(sums + 1, a1, larger);
    keep(other, b0, larger || window.pitch == 0);
    keep(other + 1, b1, larger || window.pitch == 0);
    return weights;
}

/* The same for one window. */
INLINE const uint8_t *dense_single(const uint8_t *a, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    sum_t a0 = 0, a1 = 0;
    for (uint16_t row = window.rows; row > 0; row--) {
        for (const uint8_t *end = a + window.taps; a != end; weights += 2) {
            int32_t tap = *a++;
            a0 += (int8_t)weights[0] * tap;
            a1 += (int8_t)weights[1] * tap;
        }
        a += window.skip;
#if PADDED
        weights += window.weights_skip;
#endif
    }
    keep(sums, a0, larger);
    keep(sums + 1, a1, larger);
#if PADDED
    weights += window.weights_rest;
#endif
    return weights;
}
#endif

KERNEL void sums_dense(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if PADDED
    weights += window.weights_first;
#endif
#if defined(__AVR_HAVE_MUL__) && SUM_BYTES == 3
    if (b != 0) {
        dense_pair(a, b, weights, sums, larger);
    } else {
        dense_single(a, weights, sums, larger);
    }
#elif defined(__AVR__)
    dense_single(a, weights, sums, larger);
    if (b != 0) {
        dense_single(b, weights, (sum_t *)(void *)((uint8_t *)sums + window.pitch), larger || window.pitch == 0);
    }
#else
    for (uint16_t pair = window.pairs; pair > 0; pair--, sums += 2) {
        weights = b != 0 ? dense_pair(a, b, weights, sums, larger) : dense_single(a, weights, sums, larger);
    }
#endif
}

/* kernel sums_gaps (uses kept) */
/*
 * Only weights that are not zero. For every channel and every row of the window: how many pairs of weights follow, then for each
 * pair a byte and the two weights. The byte holds how many taps each of them lies behind the one before it (the low four bits are
 * the first's); the first of a row counts from the row's first tap.
 */
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
INLINE void gaps_pair(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
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
        "4: " LOAD2(r16, r17, row_bytes)
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
        : "r"(flags), "r"(first), "r"(second), SYMBOL(rows), SYMBOL(row_bytes), SYMBOL(pitch)
        : "r2", "r3", "r4", "r5", "r8", "r9", "r10", "r14", "r15", "r16", "r17", "r18", "r19", "r20", "r21", "r26", "r27",
          "memory");
}
#endif

KERNEL void sums_gaps(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
#if defined(__AVR_HAVE_MUL__) && SUM_BYTES == 3
    if (!CLIPPED) {
        uint16_t pitch = window.pitch;
        if (b == 0) { /* the same window twice: the larger of two equal sums */
            b = a;
            window.pitch = 0;
        }
        gaps_pair(a, b, weights, sums, larger);
        window.pitch = pitch;
        return;
    }
#endif
#if PADDED
    uint16_t above = window.above, before = window.before, rows = (uint16_t)(above + window.rows + window.below);
#else
    uint16_t above = 0, before = 0, rows = window.rows;
#endif
    uint8_t larger_b = larger || window.pitch == 0;
    for (uint16_t channel = window.channels; channel > 0; channel--, sums++) {
        sum_t sum_a = 0, sum_b = 0;
        uint16_t begin = 0;
        for (uint16_t row = 0; row < rows; row++) {
            uint8_t inside_row = (uint16_t)(row - above) < window.rows;
            uint16_t tap = (uint16_t)-before; /* modulo 2**16: one outside is not below window.taps either */
            for (uint8_t pairs = BYTE(weights++); pairs > 0; pairs--, weights += 3) {
                uint8_t gaps = BYTE(weights);
                for (uint8_t which = 1; which <= 2; which++, gaps >>= 4) {
                    tap = (uint16_t)(tap + (gaps & 15));
                    if (inside_row && tap < window.taps) {
                        int16_t weight = (int8_t)BYTE(weights + which);
                        sum_a += (int32_t)weight * a[(uint16_t)(begin + tap)];
                        if (b != 0) {
                            sum_b += (int32_t)weight * b[(uint16_t)(begin + tap)];
                        }
                    }
                }
            }
            if (inside_row) {
                begin = (uint16_t)(begin + window.row_bytes);
            }
        }
        keep(sums, sum_a, larger);
        if (b != 0) {
            keep((sum_t *)(void *)((uint8_t *)sums + window.pitch), sum_b, larger_b);
        }
    }
}

/* kernel sums_depthwise (uses kept) */
/* Every channel of the output sums up taps of the same channel of the input. Windows come one by one. */
KERNEL void sums_depthwise(const uint8_t *a, const uint8_t *b, const uint8_t *weights, sum_t *sums, uint8_t larger)
{
    (void)b;
    uint16_t pixel = window.pixel;
#if PADDED
    weights += window.weights_first;
#endif
    for (uint16_t channel = window.channels; channel > 0; channel--, a++, sums++) {
        sum_t sum = 0;
        const uint8_t *begin = a;
        for (uint16_t row = window.rows; row > 0; row--) {
            for (uint16_t tap = 0; tap < window.taps; tap = (uint16_t)(tap + pixel)) {
                sum += (int16_t)((int8_t)BYTE(weights)) * begin[tap];
                weights++;
            }
            begin += window.row_bytes;
#if PADDED
            weights += window.weights_skip;
#endif
        }
#if PADDED
        weights += window.weights_rest;
#endif
        keep(sums, sum, larger);
    }
}

/* kernel pool */
/* A pool. Its stride is its window, and what does not fill a window is not read. */
struct pool {
    uint8_t (*value)(const struct pool *pool, const uint8_t *corner); /* value_max or value_average */
    uint16_t height, width;               /* of the output */
    uint16_t kernel_height, kernel_width; /* of a window */
    uint16_t channels, taps;              /* of the input; taps: bytes of a row of a window */
    uint16_t skip;                        /* bytes from the last tap of a row to the next row */
    uint16_t multiplier, shift;           /* of an average */
};

/* Computes a layer: the value of every window, channel by channel. */
KERNEL void pool(const struct pool *layer, const uint8_t *in, uint8_t *out)
{
    struct pool pool;
    for (uint8_t byte = 0; byte < sizeof pool; byte++) { /* from an AVR's flash every field takes longer to read */
        ((uint8_t *)&pool)[byte] = BYTE((const uint8_t *)layer + byte);
    }
    for (uint16_t y = pool.height; y > 0; y--) {
        const uint8_t *corner = in;
        for (uint16_t x = pool.width; x > 0; x--) {
            for (uint16_t channel = pool.channels; channel > 0; channel--) {
                *out++ = pool.value(&pool, corner++);
            }
            corner += pool.taps - pool.channels;
        }
        in += (uint16_t)((unsigned)pool.kernel_height * (uint16_t)(pool.taps + pool.skip));
    }
}

/* kernel value_max (uses pool) */
/* The largest value of a window. */
KERNEL uint8_t value_max(const struct pool *pool, const uint8_t *corner)
{
    uint8_t largest = 0;
    for (uint16_t row = pool->kernel_height; row > 0; row--, corner += pool->skip) {
        for (uint16_t column = pool->kernel_width; column > 0; column--, corner += pool->channels) {
            largest = *corner > largest ? *corner : largest;
        }
    }
    return largest;
}

/* kernel value_average (uses scaled, pool) */
/* The mean of a window: sum * multiplier >> shift, rounded. */
KERNEL uint8_t value_average(const struct pool *pool, const uint8_t *corner)
{
    int32_t sum = 0;
#ifdef __AVR__
    uint8_t value;
    uint16_t column, row = pool->kernel_height;
    __asm__ volatile("1: movw %[column], %[columns] \n"
                     "2: ld %[value], X \n\t"
                     "add r26, %A[step] \n\t"
                     "adc r27, %B[step] \n\t"
                     "add %A[sum], %[value] \n\t"
                     "adc %B[sum], __zero_reg__ \n\t"
                     "adc %C[sum], __zero_reg__ \n\t"
                     "sbiw %[column], 1 \n\t"
                     "brne 2b \n\t"
                     "add r26, %A[skip] \n\t"
                     "adc r27, %B[skip] \n\t"
                     "subi %A[row], 1 \n\t"
                     "sbci %B[row], 0 \n\t"
                     "brne 1b"
                     : [sum] "+r"(sum), [row] "+d"(row), "+x"(corner), [column] "=&w"(column), [value] "=&r"(value)
                     : [columns] "r"(pool->kernel_width), [step] "r"(pool->channels), [skip] "r"(pool->skip)
                     : "memory");
#else
    for (uint16_t row = pool->kernel_height; row > 0; row--, corner += pool->skip) {
        for (uint16_t column = pool->kernel_width; column > 0; column--, corner += pool->channels) {
            sum += *corner;
        }
    }
#endif
    if (pool->multiplier != 1) { /* it is 1 for windows of two, four, eight */
        sum *= pool->multiplier;
    }
    sum = scaled(sum, (uint8_t)pool->shift);
    return (uint8_t)(sum > UINT8_MAX ? UINT8_MAX : sum);
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
