/* The smallest program around an exported network: one raw image in, one class number out.
 *
 * The image comes on standard input as MODEL_INPUT_SIZE bytes, rows from top to bottom, channels of a pixel side by side.
 * On a microcontroller the middle of main() is all that you need: fill model_input(), call model_run(), take the largest. */
#include <stdio.h>

#include "model.h"

int main(void)
{
    if (fread(model_input(), 1, MODEL_INPUT_SIZE, stdin) != MODEL_INPUT_SIZE) {
        fprintf(stderr, "expected %d bytes\n", (int)MODEL_INPUT_SIZE);
        return 1;
    }

    const int16_t *logits = model_run();
    int best = 0;
    for (int i = 1; i < MODEL_CLASSES; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }

    printf("%d\n", best);
    return 0;
}
