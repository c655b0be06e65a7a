/*
 * A program around a model for this machine: reads images from standard input, writes their scores to standard output.
 *
 * Compiled with `-include` of the model's header, and with MODEL_INPUT, MODEL_RUN, INPUT_BYTES and CLASSES defined as its names: for a model whose
 * image comes row by row, those of a row, and nothing is written before the last one.
 */
#include <stdio.h>

int main(void)
{
    while (fread(MODEL_INPUT(), 1, INPUT_BYTES, stdin) == INPUT_BYTES) {
        const int16_t *scores = MODEL_RUN();
        if (scores != 0 && fwrite(scores, sizeof(int16_t), CLASSES, stdout) != CLASSES) {
            return 1;
        }
    }
    return ferror(stdin) || fflush(stdout) ? 1 : 0;
}
