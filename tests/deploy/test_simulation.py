import numpy as np

from sparse_mcu.deploy.simulation import whole_images


def test_an_image_takes_the_time_of_all_its_rows_and_has_the_logits_of_the_last() -> None:
    record = np.dtype([("stack", "u4"), ("logits", "i2", (2,))])
    records = np.array([(7, [0, 0]), (30, [1, -2]), (9, [0, 0]), (8, [3, 4])], record)
    found = whole_images(records, np.array([10, 1, 20, 2], np.uint64), rows=2)
    assert found.cycles.tolist() == [11, 22]
    assert found.logits.tolist() == [[1, -2], [3, 4]]
    assert found.stack_bytes == 30
