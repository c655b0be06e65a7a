import pytest
import torch

from sparse_mcu.search.threads import threads


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with pytest.raises(KeyError), threads(1):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)
