/*
 * The smallest program around a model: an endless loop that asks where the input goes and runs the model.
 *
 * The simulator recognises three addresses in it, so nothing has to be signalled and no cycle has to be subtracted:
 *   harness_start  about to call model_run; r25:r24 point to the input (the image is written there now)
 *   harness_stop   model_run has returned; r25:r24 point to the logits
 * From harness_start to harness_stop lie the call, the model and its return. The sizes leave as absolute symbols, which take no memory.
 * Linked with both functions defined as 0, this object is the empty program that sizes are measured against.
 *
 * Compiled with `-include` of the model's header, and with MODEL_INPUT, MODEL_RUN, INPUT_BYTES and CLASSES defined as its names.
 */
#define TEXT(name) #name
#define CALL(function) "%~call " TEXT(function) "\n" /* %~ prints the r of rcall where the core has no call */
#define EXPORT(symbol, value) __asm__ volatile(".global " #symbol "\n\t.set " #symbol ", %0" : : "i"(value))

int main(void)
{
    EXPORT(harness_input_bytes, INPUT_BYTES);
    EXPORT(harness_classes, CLASSES);
    __asm__ volatile(
        ".global harness_start\n\t"
        ".global harness_stop\n"
        "1:\n\t" CALL(MODEL_INPUT)
        "harness_start:\n\t" CALL(MODEL_RUN)
        "harness_stop:\n\t"
        "rjmp 1b" ::);
    __builtin_unreachable();
}
