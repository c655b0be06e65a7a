"""sparse-mcu finds convolutional networks small enough for microcontrollers and writes them as verified C."""
