"""Splits are disjoint, complete, stable and of the asked size."""

from data.labelled import agreed
from data.splits import NAMES, by_hash, by_weight, choose, normal, rank, shuffled, stratified
from data.text import split_documents


def test_rank_is_the_same_on_every_machine() -> None:
    assert rank("a text") == 0x1CDF3A546A440144
    assert by_hash("a text") == by_hash("a text")


def test_by_hash_keeps_the_shares() -> None:
    places = [by_hash(f"key {n}", validation=0.2, test=0.1) for n in range(5_000)]
    assert abs(places.count("validation") / 5_000 - 0.2) < 0.02
    assert abs(places.count("test") / 5_000 - 0.1) < 0.02


def test_choose_reaches_every_option() -> None:
    assert {choose("abcd", str(n)) for n in range(100)} == set("abcd")


def test_shuffled_does_not_depend_on_the_order_of_the_source() -> None:
    names = [f"n{n}" for n in range(50)]
    assert shuffled(names, str) == shuffled(reversed(names), str) != names


def test_stratified_is_disjoint_complete_and_keeps_the_labels_shares() -> None:
    items = [(f"text {n}", "rare" if n % 10 == 0 else "common") for n in range(1_000)]
    parts = stratified(items, key=lambda i: i[0], label=lambda i: i[1])
    assert sorted(item for part in parts.values() for item in part) == sorted(items)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 800,
        "validation": 100,
        "test": 100,
    }
    assert [sum(label == "rare" for _, label in parts[name]) for name in NAMES] == [80, 10, 10]
    assert parts == stratified(reversed(items), key=lambda i: i[0], label=lambda i: i[1])


def test_a_label_of_three_is_in_every_split() -> None:
    parts = stratified(["x", "y", "z"], key=str, label=lambda _: "only")
    assert [len(parts[name]) for name in NAMES] == [1, 1, 1]


def test_by_weight_is_near_the_shares_although_one_document_is_large() -> None:
    weights = {"large": 500, **{f"d{n}": 5 for n in range(100)}}
    place = by_weight(weights, validation=0.1, test=0.1)
    held = {n: sum(w for d, w in weights.items() if place[d] == n) for n in NAMES}
    assert place["large"] == "train"
    assert 95 <= held["validation"] <= 105
    assert 95 <= held["test"] <= 105


def test_documents_are_never_cut_and_quotations_do_not_leak() -> None:
    shared = " ".join(f"word{n}" for n in range(13))
    items = [(f"doc{d}", f"paragraph {p} of document {d}") for d in range(20) for p in range(5)]
    items += [(f"doc{d}", f"document {d} quotes: {shared}, and goes on") for d in range(20)]
    parts = split_documents(items, held_out=0.2)
    documents = [{text.split("document ")[1].split()[0] for text in parts[name]} for name in NAMES]
    assert all(documents)
    assert not documents[0] & documents[1] | documents[0] & documents[2]
    assert [sum(shared in text for text in parts[name]) for name in NAMES][1:] == [0, 0]


def test_normal_sees_the_same_words() -> None:
    assert normal("  The  “Gangs”, again!") == normal("the gangs again") == "the gangs again"


def test_agreed_drops_repeats_and_contradictions() -> None:
    examples = [("Good!", "fresh"), ("good", "fresh"), ("Odd", "fresh"), ("odd.", "rotten")]
    assert agreed(examples) == [("Good!", "fresh")]
