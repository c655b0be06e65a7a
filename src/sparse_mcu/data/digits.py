"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 (Alpaydin and Kaynak, 1998), part of the library."""

from sparse_mcu.data.reading import Part, Reading

DESCRIPTION = "handwritten digits, 1,797 grey images of 8x8, 10 classes; part of scikit-learn, no download"
HIGHEST = 16  # pixels count the set ones of 4x4 bits


def read_digits() -> Reading:
    """Return the images in the order of scikit-learn."""
    from sklearn.datasets import load_digits  # here: it takes more than a second to import

    digits = load_digits()
    part = Part(digits.images / HIGHEST, digits.target, "images of digits", "labels of digits")
    return Reading("digits", f"digits: {DESCRIPTION}", part, class_names=tuple(str(name) for name in digits.target_names))
