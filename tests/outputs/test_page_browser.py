"""The page in a browser: no error, nothing wider than the page, pictures there, a table that sorts."""

import pytest
from browser import probed

WHOLE, PARTIAL = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
PROBE = """
const root = document.documentElement;
const table = document.querySelector("table.cases");
const heads = Array.from(table.tHead.rows[1].cells, (cell) => cell.textContent.trim());
const column = (title) => Array.from(table.tBodies[0].rows, (row) => row.cells[heads.indexOf(title)]);
const volumes = () => column("Volume (ml)").map((cell) => Number(cell.dataset.value));
const cases = () => column("Case").map((cell) => cell.textContent.trim());
const click = (title) => { table.tHead.rows[1].cells[heads.indexOf(title)].querySelector("button").click(); };
const found = { inner: innerWidth, scroll: root.scrollWidth, client: root.clientWidth };
found.heads = heads; found.before = cases();
found.outside = Array.from(document.querySelectorAll("body *"))
  .filter((e) => !e.closest(".scroll > *") && e.getBoundingClientRect().right > root.clientWidth + 0.5)
  .map((e) => e.tagName);
click("Volume (ml)"); found.up = volumes();
click("Volume (ml)"); found.down = volumes();
click("Case"); found.cases = cases();
const swatches = Array.from(document.querySelectorAll(".legend .swatch"));
found.swatches = swatches.map((e) => getComputedStyle(e).backgroundColor);
found.images = Array.from(document.images, (image) => [image.width > 200, image.getAttribute("width")]);
parent.document.title = JSON.stringify(found);
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_and_sorts(predicted, browse, width, tmp_path):
    found = probed(predicted / "index.html", tmp_path / "copy.html", browse, width, PROBE)
    assert found["inner"] == width
    assert found["scroll"] <= found["client"]
    assert found["outside"] == []
    assert found["heads"] == ["Case", "Preview", "Used", "Not there", *["Volume (ml)", "Lesions"] * 3]
    assert found["up"] == sorted(found["down"]) == found["down"][::-1]
    assert len(set(found["up"])) == 2
    assert found["before"] == found["cases"] == [WHOLE, PARTIAL]
    assert found["swatches"] == ["rgb(86, 180, 233)", "rgb(240, 228, 66)", "rgb(213, 94, 0)"]
    assert found["images"] == [[True, "640"]] * 2


@pytest.mark.slow
def test_its_own_policy_lets_it_run(predicted, browse, tmp_path):
    """The file as it is; one with a foreign script shows that a word on the console would be heard."""
    _, log = browse(predicted / "index.html", 1280)
    assert log == []
    changed = tmp_path / "changed.html"
    text = (predicted / "index.html").read_text(encoding="utf-8")
    changed.write_text(
        text.replace("</body>", "<script>document.title = 'run'</script></body>"), encoding="utf-8"
    )
    document, log = browse(changed, 1280)
    assert len(log) == 1
    assert "<title>run" not in document
