"The main job, in its smallest size."
import re
from dataclasses import replace

import pytest

from fgar.demo import DemoConfig, demo, report, write_data

def test_demo_runs_from_end_to_end(tmp_path, capsys):
    config = DemoConfig(out=str(tmp_path/'demo'), classes=('low dribble', 'jump shot'), train=16, val=4, test=6, size=32, frames=4, difficulty=0., epochs=1)
    results = demo(config)
    out = capsys.readouterr().out
    assert list(results) == ['4 frames', '1 frame'] and all(len(r.target) == 6 for r in results.values())
    assert 'chance' in out and 'demo/report.html' in out
    page = (tmp_path/'demo/report.html').read_text()
    assert page.count('<video') == 4 and 'src="http' not in page and 'href="http' not in page
    assert not re.search(r'<script[^>]+src', page)
    few = {name: replace(r, scores=r.scores[:3], target=r.target[:3], names=r.names[:3], spans=r.spans and r.spans[:3]) for name, r in results.items()}
    assert report(config, few, 1.).read_text().count('<video') == 3                                                                        # --test 3
    with pytest.raises(ValueError, match='out: .*difficulty 0.0 for 1.0. Choose another `out`'): demo(replace(config, difficulty=1.))          # not the old videos under the new name
    (tmp_path/'demo/court26/settings.json').unlink()
    assert write_data(config) == tmp_path/'demo/court26/manifest.csv'                                                                      # of an older version
