from dataclasses import replace

from sparse_mcu.nn.align import match
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool

CONV = Conv("regular", (3, 3), 8)
POOL = Pool("max", (2, 2))


def network(*blocks, hidden=None):
    return Architecture((1, 16, 16), 3, blocks, head=Head(hidden=hidden))


def test_equal_networks_match_name_by_name():
    a = network(Block((CONV, replace(CONV, kind="separable")), POOL, branch=True), Block((CONV,)), hidden=5)
    matched = match(a, a)
    assert all(child == parent for child, parent in matched.items())
    assert matched.keys() == {
        "block0.conv0", "block0.conv1.depthwise", "block0.conv1.pointwise", "block1.conv0",
        "head0.linear", "head1.linear", "logits",
    }  # fmt: skip


def test_an_added_layer_has_no_parent_and_shifts_no_other():
    parent = network(Block((CONV, replace(CONV, channels=4))))
    child = network(Block((CONV, CONV, replace(CONV, channels=4))))
    assert match(child, parent) == {"block0.conv0": "block0.conv0", "block0.conv2": "block0.conv1", "logits": "logits"}


def test_layers_match_at_their_resolution():
    """The layer before the pool is the new one, although a layer of its shape follows the pool."""
    parent = network(Block((CONV,), POOL), Block((CONV,)))
    child = network(Block((CONV, CONV), POOL), Block((CONV,)))
    assert match(child, parent)["block1.conv0"] == "block1.conv0"
    assert "block0.conv1" not in match(child, parent)


def test_layers_match_by_their_part_in_a_residual_connection():
    parent = network(Block((CONV, CONV, CONV), residual=True))
    child = network(Block((CONV, CONV, CONV, CONV), residual=True))
    matched = match(child, parent)
    assert (matched["block0.conv2"], matched["block0.conv3"]) == ("block0.conv1", "block0.conv2")


def test_a_changed_layer_still_matches():
    parent = network(Block((CONV, replace(CONV, channels=12))))
    child = network(Block((replace(CONV, kernel=(5, 5), channels=6), replace(CONV, channels=12))))
    assert match(child, parent) == {"block0.conv0": "block0.conv0", "block0.conv1": "block0.conv1", "logits": "logits"}


def test_the_classifier_of_the_last_block_lives_on_under_another_name():
    parent = network(Block((CONV,), POOL), Block((CONV,)))
    child = network(Block((CONV,), POOL, branch=True), Block((CONV,)))
    matched = match(child, parent)
    assert matched["head1.linear"] == "logits"
    assert "head0.linear" not in matched


def test_a_branch_follows_its_block():
    parent = network(Block((CONV,), POOL), Block((replace(CONV, channels=4),), branch=True), Block((CONV,)))
    child = network(*(replace(block, branch=True) for block in parent.blocks))
    matched = match(child, parent)
    assert (matched["head1.linear"], matched["head2.linear"]) == ("head0.linear", "head1.linear")
    assert "head0.linear" not in matched


def test_classifiers_with_and_without_hidden_units_do_not_match():
    plain, hidden = network(Block((CONV,))), network(Block((CONV,)), hidden=5)
    assert match(hidden, plain) == match(plain, hidden) == {"block0.conv0": "block0.conv0"}
