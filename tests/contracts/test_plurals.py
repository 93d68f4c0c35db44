"""English plurals."""

from __future__ import annotations

import pytest

from tidings.contracts.plural import plural

PAIRS = """
    order orders; cashier cashiers; invoice invoices; payment payments; email emails; user users; equipment equipment; customer customers
    category categories; company companies; entity entities; currency currencies; policy policies; day days; key keys; journey journeys
    box boxes; tax taxes; address addresses; class classes; process processes; batch batches; branch branches; dish dishes; match matches
    status statuses; bus buses; virus viruses; bonus bonuses; campus campuses; alias aliases; canvas canvases; lens lenses; gas gases
    knife knives; wife wives; life lives; leaf leaves; shelf shelves; half halves; wolf wolves; thief thieves; belief beliefs; roof roofs
    chief chiefs; brief briefs; proof proofs; person people; child children; man men; woman women; foreman foremen; human humans
    foot feet; tooth teeth; goose geese; mouse mice; ox oxen; series series; species species; sheep sheep; news news; data data
    information information; staff staff; metadata metadata; hardware hardware; feedback feedback; datum data; criterion criteria
    phenomenon phenomena; analysis analyses; basis bases; crisis crises; thesis theses; axis axes; matrix matrices; vertex vertices
    index indexes; appendix appendices; quiz quizzes; buzz buzzes; hero heroes; potato potatoes; tomato tomatoes; echo echoes; veto vetoes
    photo photos; video videos; logo logos; memo memos; repo repos; studio studios; stomach stomachs; epoch epochs; tech techs
    taxi taxis; menu menus; specimen specimens; regimen regimens; soliloquy soliloquies; boy boys; toy toys; quote quotes; fee fees
    employee employees; house houses; database databases; purchase purchases; release releases; license licenses; response responses
    radius radii; stimulus stimuli; alumnus alumni; bacterium bacteria; grandchild grandchildren; salesperson salespeople; idea ideas
    quota quotas; schema schemas; warehouse warehouses; expense expenses; lease leases; fish fish; aircraft aircraft
"""
WORDS = [tuple(pair.split()) for line in PAIRS.strip().splitlines() for pair in line.split(";")]


@pytest.mark.parametrize(("word", "many"), WORDS, ids=lambda word: word)
def test_the_plural_of_a_word(word: str, many: str) -> None:
    assert plural(word) == many


@pytest.mark.parametrize("many", sorted({many for _, many in WORDS}))
def test_a_word_that_is_plural_already_stays(many: str) -> None:
    assert plural(many) == many


@pytest.mark.parametrize(
    ("words", "many"),
    [
        ("order-item", "order-items"),
        ("sales_person", "sales_people"),
        ("shop.category", "shop.categories"),
        ("status-day", "status-days"),
        ("Cashier", "Cashiers"),
        ("Person", "People"),
        ("Category", "Categories"),
        ("CPU", "CPUs"),
        ("v2", "v2"),
        ("", ""),
        ("order-", "order-"),
    ],
)
def test_the_last_of_several_words_is_put_into_the_plural_and_its_case_kept(words: str, many: str) -> None:
    assert plural(words) == many
