"""Every id of the papers is planned in one chapter, and met by a cell or listed as open."""

from repro.core import inventory


def test_every_id_is_planned_once():
    planned = [id for about in inventory.chapters().values() for id in about["ids"]]
    assert sorted(planned) == sorted(inventory.ids()) and len(planned) == 99


def test_coverage_counts_met_and_open():
    rows = inventory.coverage()
    assert [row["id"] for row in rows] == list(inventory.ids())
    met = [row for row in rows if row["status"] == "met"]
    assert all((row["chapter"] is None) == (row["cell"] is None) == (row["status"] == "open") for row in rows)
    assert {row["id"] for row in met} >= {"p1.kl_bound", "p1.fig4", "p2.eq4", "p2.fig3", "p2.fig7", "p2.c4"}


def test_a_cell_meets_an_id_only_by_label_or_call():
    cell = {"cell_type": "markdown", "source": "see {numref}`p2.fig3`", "metadata": {}}
    assert not inventory._mentions("p2.fig3", cell)
    assert inventory._mentions("p2.eq4", {**cell, "source": "```{math}\n:label: p2.eq4\nx\n```"})
    call = {"cell_type": "code", "source": 'chapter.claim("p2.c1", "world", {})', "metadata": {}}
    assert inventory._mentions("p2.c1", call) and not inventory._mentions("p2.c11", call)


def test_published_figures_are_by_row_and_column():
    assert inventory.published("p2.table1")["LLaMA-3-8B-it BT mix2"]["Safety"] == 87.8
    assert inventory.published("p2.fig3")["UltraRM-13B_mean"] == {"value": 0.19}
    assert inventory.published("p3.table2") is None
