import pytest

from celo._plotting import DARK, LIGHT, Slot, rate_text, slots


def test_colours_go_to_the_reference_the_learned_and_then_the_best():
    names = ["a", "adam", "b", "c", "mine", "d", "e", "yours"]
    found = slots(names, reference="adam", learned={"mine", "yours"})
    assert found == {
        "a": Slot.OTHER_2,
        "adam": Slot.REFERENCE,
        "b": Slot.OTHER_3,
        "c": Slot.OTHER_4,
        "mine": Slot.LEARNED,
        "d": Slot.OTHER_5,
        "e": Slot.BACKGROUND,
        "yours": Slot.OTHER_1,
    }
    assert list(found) == names


def test_a_learned_reference_stays_in_ink():
    assert slots(["celo", "adam"], reference="celo", learned={"celo"}) == {
        "celo": Slot.REFERENCE,
        "adam": Slot.OTHER_1,
    }


@pytest.mark.parametrize("look", [LIGHT, DARK])
def test_every_slot_has_a_colour_of_its_own(look):
    assert len({look.line(slot) for slot in Slot}) == len(Slot)
    assert look.line(Slot.BACKGROUND) == look.grid


def test_equal_lines_share_colours_when_they_run_out():
    colours = LIGHT.cycle(8)
    assert len(set(colours)) == 6
    assert colours[:2] == colours[6:]


def test_rates_are_written_as_people_write_them():
    assert [rate_text(x) for x in (1e-3, 2.5e-4, 1.0, 0.03)] == ["1e-3", "2.5e-4", "1e0", "3e-2"]
