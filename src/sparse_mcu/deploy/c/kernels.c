/*
 * The kernels of sparse-mcu: the integer arithmetic of docs/integer-arithmetic.md in C99, for cores from 8 bits up.
 *
 * Code generation pastes the sections that a network needs, in this order, into its source; a section opens with a line
 * "kernel NAME" or "kernel NAME (uses NAMES)". Compiled as it stands, the file has every kernel.
 *
 * Tensors are height, width, channels. A layer is a constant descriptor, which lies in flash and is read through FIELD; all its
 * numbers are uint16_t, and so are the places within a tensor. Its weights are a stream of bytes in flash, read through BYTE. For each
 * output channel it holds: the bias (BIAS_BYTES, little endian, signed), the multiplier (1 byte), the shift (1 byte) and the int8
 * weights of the channel's taps. These are dense, or bitmaps: for every eight taps a byte whose lowest bit stands for the first of
 * them, followed by the weights of the bits that are set. No sum or product overflows an int32: quant/verify.py has proved it.
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
#ifndef BIAS_BYTES
#define BIAS_BYTES 4 /* generated code says 2, 3 or 4 before its first kernel */
#endif

/* kernel requantise */
/* Writes (product + half) >> shift, clamped to uint8, or to int16 if wide, at out; returns the next place. */
KERNEL uint8_t *requantise(uint8_t *out, int32_t product, uint8_t shift, uint8_t wide)
{
    if (shift > 0) { /* half up: ((product >> (shift - 1)) + 1) >> 1 */
        shift--;
#ifdef __AVR__ /* has no shift by several bits, but a byte at a time is only moves */
        for (; shift >= 8; shift = (uint8_t)(shift - 8)) {
            product >>= 8;
        }
        for (; shift > 0; shift--) {
            product >>= 1;
        }
#else
        product >>= shift;
#endif
        product = (product + 1) >> 1;
    }
    if (wide) {
        product = product < INT16_MIN ? INT16_MIN : product > INT16_MAX ? INT16_MAX : product;
        *(int16_t *)(void *)out = (int16_t)product;
        return out + 2;
    }
    *out = (uint8_t)(product < 0 ? 0 : product > UINT8_MAX ? UINT8_MAX : product);
    return out + 1;
}

/* kernel run */
/* What the kernels of a layer share while it runs. */
struct cursor {
    const uint8_t *in;     /* the layer's input */
    uint8_t *scratch;      /* room for one window */
    const uint8_t *stream; /* the next weights */
    uint8_t *out;          /* where the next output goes */
};

/* A layer: a kernel that is called for every window of the input, row by row. A fully connected layer has one window. */
struct layer {
    void (*window)(const struct layer *layer, struct cursor *cursor, uint16_t top, uint16_t left); /* one of window_... */
    uint16_t height, width; /* of the output: windows */
    uint16_t top, left;     /* where the first window begins: row, and byte in it; modulo 2**16, since padding begins below zero */
    uint16_t down, right;   /* rows from a window to the next one below; bytes to the next one on its right */
    uint16_t row_bytes;     /* of the input */
};

typedef void window_kernel(const struct layer *layer, struct cursor *cursor, uint16_t top, uint16_t left);

KERNEL void run(const struct layer *layer, const uint8_t *in, uint8_t *out, uint8_t *scratch)
{
    struct cursor cursor = {in, scratch, 0, out};
    uint16_t top = FIELD(layer, top);
    for (uint16_t y = FIELD(layer, height); y > 0; y--) {
        uint16_t left = FIELD(layer, left);
        for (uint16_t x = FIELD(layer, width); x > 0; x--) {
            ((window_kernel *)FIELD(layer, window))(layer, &cursor, top, left);
            left = (uint16_t)(left + FIELD(layer, right));
        }
        top = (uint16_t)(top + FIELD(layer, down));
    }
}

/* kernel conv (uses run) */
/* A convolution: in every window, several outputs from the same taps. */
struct conv {
    struct layer layer;
    void (*rows)(const struct conv *conv, struct cursor *cursor, const uint8_t *taps); /* rows_dense or rows_bitmap */
    const uint8_t *stream;
    uint16_t taps;    /* of an output */
    uint16_t outputs; /* of the same taps */
    uint16_t wide;    /* 1: outputs are int16, 0: uint8 */
};

typedef void rows_kernel(const struct conv *conv, struct cursor *cursor, const uint8_t *taps);

/* Returns the bias at stream. */
INLINE int32_t read_bias(const uint8_t *stream)
{
#ifdef __AVR__
    return (int32_t)(pgm_read_dword(stream) << (32 - 8 * BIAS_BYTES)) >> (32 - 8 * BIAS_BYTES); /* the bytes behind drop out */
#else
    uint32_t bias = 0;
    for (uint8_t byte = 0; byte < BIAS_BYTES; byte++) {
        bias |= (uint32_t)stream[byte] << (32 - 8 * BIAS_BYTES + 8 * byte);
    }
    return (int32_t)bias >> (32 - 8 * BIAS_BYTES);
#endif
}

#ifdef __AVR__
/* Multiplies weight, signed, by tap, unsigned, to r1:r0; sign becomes 0 or 255, the byte above. */
#ifdef __AVR_HAVE_MUL__
#define MULTIPLY \
    "mulsu %[weight], %[tap] \n\t" \
    "sbc %[sign], %[sign] \n\t" /* mulsu leaves the product's sign in the carry */
#else
#define MULTIPLY /* as if weight were unsigned, bit by bit of tap; then 256 * tap less if it was negative */ \
    "mov r0, %[tap] \n\t" \
    "clr r1 \n\t" \
    "ldi %[sign], 8 \n\t" \
    "lsr r0 \n" \
    "7: brcc 8f \n\t" \
    "add r1, %[weight] \n" \
    "8: ror r1 \n\t" \
    "ror r0 \n\t" \
    "dec %[sign] \n\t" \
    "brne 7b \n\t" \
    "sbrc %[weight], 7 \n\t" \
    "sub r1, %[tap] \n\t" \
    "mov %[sign], r1 \n\t" \
    "lsl %[sign] \n\t" \
    "sbc %[sign], %[sign] \n\t"
#endif
#endif

/* kernel rows_dense (uses requantise, conv) */
/* Adds the products of count taps with as many weights, from *stream on, to sum; moves *stream behind them. */
INLINE int32_t dot_dense(int32_t sum, const uint8_t *taps, const uint8_t **stream, uint16_t count)
{
    const uint8_t *weights = *stream;
#ifdef __AVR__
    uint8_t tap, weight, sign;
    __asm__("1: ld %[tap], X+ \n\t"
            "lpm %[weight], Z+ \n\t"
            MULTIPLY
            "add %A[sum], r0 \n\t"
            "adc %B[sum], r1 \n\t"
            "adc %C[sum], %[sign] \n\t"
            "adc %D[sum], %[sign] \n\t"
            "sbiw %[count], 1 \n\t"
            "brne 1b \n\t"
            "clr __zero_reg__"
            : [sum] "+r"(sum), "+x"(taps), "+z"(weights), [count] "+w"(count), [tap] "=&a"(tap), [weight] "=&a"(weight),
              [sign] "=&d"(sign)
            :
            : "memory");
#else
    for (; count > 0; count--) {
        sum += (int8_t)BYTE(weights) * *taps;
        weights++;
        taps++;
    }
#endif
    *stream = weights;
    return sum;
}

/* All outputs of the taps; the weights are dense. */
KERNEL void rows_dense(const struct conv *conv, struct cursor *cursor, const uint8_t *taps)
{
    const uint8_t *stream = cursor->stream;
    for (uint16_t output = FIELD(conv, outputs); output > 0; output--) {
        int32_t sum = read_bias(stream);
        stream += BIAS_BYTES;
        uint8_t multiplier = BYTE(stream++);
        uint8_t shift = BYTE(stream++);
        sum = dot_dense(sum, taps, &stream, FIELD(conv, taps));
        cursor->out = requantise(cursor->out, sum * multiplier, shift, (uint8_t)FIELD(conv, wide));
    }
    cursor->stream = stream;
}

/* kernel rows_bitmap (uses requantise, conv) */
/* As dot_dense, for weights that are bitmaps: a weight that is zero costs neither a product nor its byte. */
INLINE int32_t dot_bitmap(int32_t sum, const uint8_t *taps, const uint8_t **stream, uint16_t count)
{
    const uint8_t *weights = *stream;
#ifdef __AVR__
    uint8_t tap, weight, sign, bits;
    uint16_t bytes = (uint16_t)(count + 7) >> 3;
    __asm__("1: lpm %[bits], Z+ \n\t"
            "tst %[bits] \n\t"
            "brne 2f \n\t"
            "adiw r26, 8 \n\t"
            "rjmp 6f \n"
            "2: sec \n\t"
            "ror %[bits] \n\t" /* the first tap's bit leaves through the carry, a sentinel enters at the top */
            "rjmp 5f \n"
            "3: adiw r26, 1 \n"
            "4: lsr %[bits] \n\t"
            "breq 6f \n" /* the sentinel has left: eight taps are done */
            "5: brcc 3b \n\t"
            "ld %[tap], X+ \n\t"
            "lpm %[weight], Z+ \n\t"
            MULTIPLY
            "add %A[sum], r0 \n\t"
            "adc %B[sum], r1 \n\t"
            "adc %C[sum], %[sign] \n\t"
            "adc %D[sum], %[sign] \n\t"
            "rjmp 4b \n"
            "6: sbiw %[bytes], 1 \n\t"
            "brne 1b \n\t"
            "clr __zero_reg__"
            : [sum] "+r"(sum), "+x"(taps), "+z"(weights), [bytes] "+w"(bytes), [tap] "=&a"(tap), [weight] "=&a"(weight),
              [sign] "=&d"(sign), [bits] "=&r"(bits)
            :
            : "memory");
#else
    for (uint16_t first = 0; first < count; first = (uint16_t)(first + 8)) {
        uint8_t bits = BYTE(weights++);
        for (const uint8_t *tap = taps + first; bits > 0; tap++, bits >>= 1) {
            if (bits & 1) {
                sum += (int8_t)BYTE(weights) * *tap;
                weights++;
            }
        }
    }
#endif
    *stream = weights;
    return sum;
}

/* All outputs of the taps; the weights are bitmaps. */
KERNEL void rows_bitmap(const struct conv *conv, struct cursor *cursor, const uint8_t *taps)
{
    const uint8_t *stream = cursor->stream;
    for (uint16_t output = FIELD(conv, outputs); output > 0; output--) {
        int32_t sum = read_bias(stream);
        stream += BIAS_BYTES;
        uint8_t multiplier = BYTE(stream++);
        uint8_t shift = BYTE(stream++);
        sum = dot_bitmap(sum, taps, &stream, FIELD(conv, taps));
        cursor->out = requantise(cursor->out, sum * multiplier, shift, (uint8_t)FIELD(conv, wide));
    }
    cursor->stream = stream;
}

/* kernel window_in_place (uses conv) */
/* A window that lies in one piece in the input: 1x1, or one row high, or as wide as the input, and never padded. */
KERNEL void window_in_place(const struct layer *layer, struct cursor *cursor, uint16_t top, uint16_t left)
{
    const struct conv *conv = (const struct conv *)layer;
    cursor->stream = (const uint8_t *)FIELD(conv, stream);
    ((rows_kernel *)FIELD(conv, rows))(conv, cursor, cursor->in + (uint16_t)((unsigned)top * FIELD(layer, row_bytes) + left));
}

/* kernel window_gathered (uses conv) */
/* Any other window: its taps are gathered in scratch first, zeros where it sticks out of the input. */
struct gathered {
    struct conv conv;
    uint16_t in_height;                   /* rows of the input */
    uint16_t kernel_height, kernel_width; /* rows of a window, taps in a row */
    uint16_t tap_step;                    /* bytes from a tap to the next one in its row */
    uint16_t groups;                      /* 1, or the channels of a depthwise convolution: each of them reads taps of its own */
};

KERNEL void gather(const struct gathered *gathered, const struct cursor *cursor, uint16_t top, uint16_t left)
{
    const uint8_t *in = cursor->in;
    uint8_t *scratch = cursor->scratch;
    uint16_t tap_step = FIELD(gathered, tap_step);
    for (uint16_t row = FIELD(gathered, kernel_height); row > 0; row--, top++) {
        uint16_t row_bytes = FIELD(gathered, conv.layer.row_bytes);
        uint16_t begin = (uint16_t)((unsigned)top * row_bytes);
        uint16_t inside = top < FIELD(gathered, in_height) ? row_bytes : 0;
        uint16_t byte = left; /* of the row; one before its begin wraps, so is not inside either */
        for (uint16_t tap = FIELD(gathered, kernel_width); tap > 0; tap--) {
            *scratch++ = byte < inside ? in[(uint16_t)(begin + byte)] : 0;
            byte = (uint16_t)(byte + tap_step);
        }
    }
}

KERNEL void window_gathered(const struct layer *layer, struct cursor *cursor, uint16_t top, uint16_t left)
{
    const struct gathered *gathered = (const struct gathered *)layer;
    const struct conv *conv = &gathered->conv;
    cursor->stream = (const uint8_t *)FIELD(conv, stream);
    for (uint16_t group = FIELD(gathered, groups); group > 0; group--) {
        gather(gathered, cursor, top, left++);
        ((rows_kernel *)FIELD(conv, rows))(conv, cursor, cursor->scratch);
    }
}

/* kernel pool (uses run) */
struct pool {
    struct layer layer;
    uint16_t channels;
    uint16_t kernel_height, kernel_width; /* of a window */
};

/* kernel window_max (uses pool) */
/* The largest value of a window, channel by channel. */
KERNEL void window_max(const struct layer *layer, struct cursor *cursor, uint16_t top, uint16_t left)
{
    const struct pool *pool = (const struct pool *)layer;
    uint16_t row_bytes = FIELD(layer, row_bytes);
    uint16_t channels = FIELD(pool, channels);
    const uint8_t *corner = cursor->in + (uint16_t)((unsigned)top * row_bytes + left);
    for (uint16_t channel = channels; channel > 0; channel--, corner++) {
        uint8_t largest = 0;
        uint16_t begin = 0;
        for (uint16_t row = FIELD(pool, kernel_height); row > 0; row--) {
            uint16_t tap = begin;
            for (uint16_t rest = FIELD(pool, kernel_width); rest > 0; rest--) {
                uint8_t value = corner[tap];
                if (value > largest) {
                    largest = value;
                }
                tap = (uint16_t)(tap + channels);
            }
            begin = (uint16_t)(begin + row_bytes);
        }
        *cursor->out++ = largest;
    }
}

/* kernel window_average (uses requantise, pool) */
/* The mean of a window, channel by channel: sum * multiplier >> shift, rounded. */
struct average {
    struct pool pool;
    uint16_t multiplier, shift;
};

KERNEL void window_average(const struct layer *layer, struct cursor *cursor, uint16_t top, uint16_t left)
{
    const struct average *average = (const struct average *)layer;
    uint16_t row_bytes = FIELD(layer, row_bytes);
    uint16_t channels = FIELD(average, pool.channels);
    const uint8_t *corner = cursor->in + (uint16_t)((unsigned)top * row_bytes + left);
    for (uint16_t channel = channels; channel > 0; channel--, corner++) {
        int32_t sum = 0;
        uint16_t begin = 0;
        for (uint16_t row = FIELD(average, pool.kernel_height); row > 0; row--) {
            uint16_t tap = begin;
            for (uint16_t rest = FIELD(average, pool.kernel_width); rest > 0; rest--) {
                sum += corner[tap];
                tap = (uint16_t)(tap + channels);
            }
            begin = (uint16_t)(begin + row_bytes);
        }
        cursor->out = requantise(cursor->out, sum * FIELD(average, multiplier), (uint8_t)FIELD(average, shift), 0);
    }
}

/* kernel add (uses requantise) */
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
        out = requantise(out, sum, (uint8_t)FIELD(layer, shift), (uint8_t)FIELD(layer, wide));
    }
}
