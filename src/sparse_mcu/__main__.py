"""``python -m sparse_mcu`` is the command ``sparse-mcu``."""

from sparse_mcu.cli import main

if __name__ == "__main__":
    main()
