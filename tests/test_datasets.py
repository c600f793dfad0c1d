"fgar.data.datasets: manifests good and bad, samples, batches, order, ranks, resuming, broken files."
import math, os, pickle, warnings
from pathlib import Path

import pandas as pd, pytest, torch

from fgar.core import generator
from fgar.data.datasets import COLUMNS, VIDEO_ENDINGS, Loader, Manifest, VideoDataset, balanced_order, collate, read_table
from fgar.data.video import write_video

def table(**columns): return pd.DataFrame(columns)
def csv(folder, text, name='manifest.csv', encoding='utf-8'):
    path = Path(folder)/name
    path.write_bytes(text.encode(encoding))
    return path

@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    "Folder of 9 files in 3 classes; frame t of each file has grey level 8·t."
    folder = tmp_path_factory.mktemp('videos')
    for k in range(9):
        height, width = ((32, 48), (48, 32), (40, 40))[k % 3]
        clip = (8*torch.arange(20 + k, dtype=torch.uint8))[:, None, None, None].expand(-1, height, width, 3)
        (folder/f'class{k//3}').mkdir(exist_ok=True)
        write_video(folder/f'class{k//3}'/f'{k}.mp4', clip, fps=10)
    return folder

def frame_numbers(frames): return (frames.float().mean((-1, -2, -3))/8).round().int().tolist()

# ---- tables
GOOD = 'path,label,split,start,end,group,camera\na.mp4,run,train,,,,left\nb.mp4,jump,test,1.5,2.5,p1,right\n'

@pytest.mark.parametrize('change', [lambda t: '\ufeff'+t, lambda t: t.replace('\n', '\r\n'), lambda t: t.replace('\n', '\n\n'), lambda t: t.replace('\n', '\n,,,,,,\n'), lambda t: t.rstrip('\n'),
                                    lambda t: t.replace(',', ' , '), lambda t: t.replace(',,,,left', ',nan,NaN,,left')])
def test_spreadsheet_habits_are_taken_as_they_come(tmp_path, change):
    m = Manifest.read(csv(tmp_path, change(GOOD)))
    assert m.labels == ['jump', 'run'] and m.targets.tolist() == [1, 0] and m.folder == tmp_path
    assert list(m.rows.columns) == [*COLUMNS, 'camera'] and m.rows.camera.str.strip().tolist() == ['left', 'right']
    assert math.isnan(m.rows.start.iloc[0]) and m.rows[['start', 'end']].iloc[1].tolist() == [1.5, 2.5]
    assert m.split('test').name(0) == 'b.mp4' and m.path(0) == tmp_path/'a.mp4'

@pytest.mark.parametrize('text, match', [
    ('', 'empty file'), ('\n \n', 'empty file'), ('path,label\n', 'at least one row'), ('a.mp4,run\nb.mp4,jump\n', 'columns path and label'), ('file,label\na.mp4,run', 'rename: path'),
    ('path;label\na.mp4;run', 'commas'), ('path\tlabel\na.mp4\trun', 'commas'), ('path,label,label\na,b,c', 'each column once'), ('path,label\na,b.mp4,run', 'line 2.*quotes'),
    ('path,label\na.mp4,run\n\nb.mp4,\n', 'label: .*line 4'), ('path,label\n,run', 'path: .*line 2'), ('path,label,start\na.mp4,run,soon', "start: .*'soon' in line 2"),
    ('path,label,end\na.mp4,run,0', 'start, end'), ('path,label,start\na.mp4,run,-1', 'start, end'), ('path,label,start,end\na.mp4,run,3,3', 'start, end.*line 2'), ('path,label,start\na.mp4,run,inf', 'start')])
def test_bad_tables_say_what_and_where(tmp_path, text, match):
    with pytest.raises(ValueError, match=match): Manifest.read(csv(tmp_path, text))

def test_wrong_encoding_missing_file_and_folder(tmp_path):
    with pytest.raises(ValueError, match='UTF-8'): Manifest.read(csv(tmp_path, 'path,label\na.mp4,sauté', encoding='latin-1'))
    with pytest.raises(FileNotFoundError, match='manifest.*nowhere.csv'): Manifest.read(tmp_path/'nowhere.csv')
    with pytest.raises(FileNotFoundError): Manifest.read(tmp_path)

def test_labels_are_names_whatever_they_look_like(tmp_path):
    assert Manifest.read(csv(tmp_path, 'path,label\na,NA\nb,007\nc,1e3\nd,None\n')).labels == ['007', '1e3', 'NA', 'None']
    assert Manifest(table(path=list('abc'), label=[10, 9, 0])).labels == ['0', '9', '10']
    assert Manifest(table(path=list('ab'), label=[1., 2.])).labels == ['1', '2']
    assert Manifest(table(path=list('ab'), label=[0, 3]), labels=5).labels == list('01234')
    assert Manifest(table(path=list('ab'), label=['x', 'y']), labels=['y', 'z', 'x']).targets.tolist() == [2, 0]

def test_labels_out_of_range_or_list(tmp_path):
    with pytest.raises(ValueError, match="label: .*'5', '-1' in line 1, 2"): Manifest(table(path=list('abc'), label=[0, 5, -1]), labels=5)
    with pytest.raises(ValueError, match="'run'.*line 2"): Manifest.read(csv(tmp_path, GOOD), labels=['jump'])
    with pytest.raises(ValueError, match='labels: .*once.*a'): Manifest(table(path=['x'], label=['a']), labels=['a', 'a'])

def test_many_bad_rows_are_not_all_listed():
    with pytest.raises(ValueError, match='and 95 more'): Manifest(table(path=['']*100, label=['a']*100))

def test_missing_files_only_when_asked(videos):
    rows = table(path=['class0/0.mp4', 'gone.mp4', 'class0\\1.mp4'], label=['a', 'b', 'a'])
    assert Manifest(rows, videos).missing() == ['gone.mp4']
    with pytest.raises(FileNotFoundError, match='1 of 3.*gone.mp4'): Manifest(rows, videos, check_files=True)

def test_duplicates_warn():
    with pytest.warns(UserWarning, match='1 rows'): m = Manifest(table(path=['a', 'a', 'a'], label=['x', 'x', 'x'], start=['', '', '3']))
    assert m.duplicates().index.tolist() == [1]

def test_from_folder(videos, tmp_path):
    m = Manifest.from_folder(videos)
    assert m.labels == ['class0', 'class1', 'class2'] and len(m) == 9 and not m.missing()
    for name in ('train/run/a.MP4', 'test/jump/sub/b.avi', 'test/jump/._b.avi', 'test/jump/notes.txt'):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True); (tmp_path/name).touch()
    m = Manifest.from_folder(tmp_path)
    assert m.rows[['path', 'label', 'split']].values.tolist() == [['test/jump/sub/b.avi', 'jump', 'test'], ['train/run/a.MP4', 'run', 'train']]
    (tmp_path/'loose.mp4').touch()
    with pytest.raises(ValueError, match='loose.mp4'): Manifest.from_folder(tmp_path)
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='no video'): Manifest.from_folder(tmp_path/'empty')
    with pytest.raises(FileNotFoundError): Manifest.from_folder(tmp_path/'nowhere')

def test_split_folders_of_any_spelling_are_read_as_train_val_and_test(tmp_path):
    for i, name in enumerate(('Training/run', 'validation/run', 'VALID/run', 'Test/jump')):
        (tmp_path/name).mkdir(parents=True); (tmp_path/name/f'{i}.mp4').touch()
    m = Manifest.from_folder(tmp_path)
    assert dict(zip(m.rows.path.str[-5:-4].astype(int), m.rows.split)) == {0: 'train', 1: 'val', 2: 'val', 3: 'test'}
    assert m.split('train').name(0) == 'Training/run/0.mp4' and not m.missing()

def test_labels_that_are_one_number_written_twice_have_one_order():
    names = [f'{0:0{zeros}d}'[1:] + str(k) for k in range(1, 9) for zeros in (1, 2, 3)]         # 1, 01, 001, 2 …: the order of a set depends on the hash seed
    m = Manifest(table(path=names, label=names[::-1]))
    assert m.labels == sorted(names, key=lambda k: (int(k), k)) and m.labels[:3] == ['001', '01', '1']

def test_write_and_read_back(tmp_path, videos):
    m = Manifest(table(path=['a b,c.mp4', 'é.mp4', str(tmp_path/'abs.mp4')], label=['x', 'ü', 'x'], start=[.1, None, 1/3], note=['say "hi"', '', '3']), tmp_path/'in')
    for folder in ('in', 'out'):
        m.write(tmp_path/folder/'m.csv')
        again = Manifest.read(tmp_path/folder/'m.csv')
        assert [again.path(i).resolve() for i in range(3)] == [m.path(i).resolve() for i in range(3)]
        pd.testing.assert_frame_equal(again.rows.drop(columns='path').reset_index(drop=True), m.rows.drop(columns='path'), check_dtype=False)
        assert [p.name for p in (tmp_path/folder).iterdir()] == ['m.csv']

def test_splits():
    m = Manifest(table(path=list('abcd'), label=list('xyxy'), split=['train', 'train', 'val', '']))
    assert m.split('val').labels == ['x', 'y'] and m.split('val').targets.tolist() == [0]
    assert m.counts().loc['x'].to_dict() == {'all': 0, 'train': 1, 'val': 1}
    with pytest.raises(KeyError, match='train, val'): m.split('test')
    with pytest.raises(ValueError, match='resplit'): Manifest(table(path=['a'], label=['x'])).split('train')
    with pytest.raises(ValueError, match='mask'): m.select([False]*4)
    assert m.select(m.targets == 0).rows.path.tolist() == ['a', 'c']

def test_leaks_by_group_and_by_file():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        m = Manifest(table(path=list('abcc'), label=list('xxxx'), split=['train', 'test', 'train', 'test'], group=['p', 'p', '', ''], start=[0, 0, 0, 5]))
    assert m.leaks() == {'p': ['test', 'train'], 'c': ['test', 'train']}
    assert not m.resplit(train=1, test=1).leaks()

def test_resplit_is_stratified_repeatable_and_keeps_groups():
    rows = table(path=[f'{i}.mp4' for i in range(300)], label=[i % 3 for i in range(300)], group=[f'g{i//3 % 50}' if i < 150 else '' for i in range(300)])
    m = Manifest(rows).resplit(seed=1, train=.7, val=.1, test=.2)
    assert not m.leaks() and set(m.rows.split) == {'train', 'val', 'test'}
    assert m.rows.split.tolist() == Manifest(rows).resplit(seed=1, train=7, val=1, test=2).rows.split.tolist()
    assert m.rows.split.tolist() != Manifest(rows).resplit(seed=2, train=.7, val=.1, test=.2).rows.split.tolist()
    assert Manifest(rows).resplit(train=1, test=0).rows.split.unique().tolist() == ['train']
    plain = Manifest(rows.drop(columns='group')).resplit(train=.7, test=.3)
    assert plain.counts().train.tolist() == [70, 70, 70]
    for bad in ({}, dict(train=-1, test=2), dict(train=0)):
        with pytest.raises(ValueError, match='fractions'): m.resplit(**bad)

def test_a_split_that_stays_empty_is_said():
    few = Manifest(table(path=list('abcd'), label=list('xxyy')))
    with pytest.warns(UserWarning, match='no rows for val, as each label has only few files'): few.resplit(train=.8, val=.2)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        few.resplit(train=.5, val=.5), few.resplit(train=1, val=0)

# ---- samples
def test_item_holds_the_frames_it_says(videos):
    data = VideoDataset(Manifest.from_folder(videos), frames=4)
    item = data[5]
    assert item['frames'].dtype == torch.uint8 and item['frames'].shape == (4, 40, 40, 3) and (item['label'], item['index']) == (1, 5)
    assert frame_numbers(item['frames']) == data.indices(5).tolist()
    assert VideoDataset(data.manifest, 4, size=20)[1]['frames'].shape == (4, 30, 20, 3)

def test_spans_are_half_open_and_exact(videos):
    m = Manifest(table(path=['class0/0.mp4']*4, label=['a']*4, start=[.5, None, 1.0, 0.55], end=[1.0, .3, None, .65]), videos)
    data = VideoDataset(m, frames=50)
    assert [sorted(set(data.indices(i).tolist())) for i in range(4)] == [[5, 6, 7, 8, 9], [0, 1, 2], list(range(10, 20)), [6]]
    assert frame_numbers(data[3]['frames']) == [6]*50

@pytest.mark.parametrize('start, end', [(5, 6), (1.91, 1.99), (2.0, None)])
def test_a_span_without_frames_is_a_failed_item(videos, start, end):
    m = Manifest(table(path=['class0/0.mp4'], label=['a'], start=[start], end=[end]), videos)
    assert 'start' in VideoDataset(m, frames=4)[0]['error'] or 'no frame' in VideoDataset(m, frames=4)[0]['error']

@pytest.mark.parametrize('short, expect', [('last', [0, 1, 2, 3, 4, 4, 4, 4]), ('loop', [0, 1, 2, 3, 4, 0, 1, 2])])
def test_short_videos(videos, short, expect):
    m = Manifest(table(path=['class0/0.mp4'], label=['a'], end=[.5]), videos)
    assert VideoDataset(m, frames=8, sampling='dense', short=short).indices(0).tolist() == expect

@pytest.mark.parametrize('sampling', ['segments', 'dense'])
def test_test_clips(videos, sampling):
    data = VideoDataset(Manifest.from_folder(videos), frames=4, sampling=sampling, clips=3, stride=2)
    at = data.indices(0).view(3, 4)
    assert data[0]['frames'].shape == (3, 4, 32, 48, 3) and [frame_numbers(clip) for clip in data[0]['frames']] == at.tolist()
    assert (at.diff(dim=1) > 0).all() and len(set(map(tuple, at.tolist()))) == 3
    if sampling == 'dense': assert (at.diff(dim=1) == 2).all()

def test_snippets_of_consecutive_frames(videos):
    at = VideoDataset(Manifest.from_folder(videos), frames=6, length=3, clips=2).indices(0).view(2, 2, 3)
    assert (at.diff(dim=-1) == 1).all()

def test_random_places_depend_on_seed_epoch_index_and_repeat(videos):
    m = Manifest.from_folder(videos)
    draw = lambda key, seed=0: VideoDataset(m, frames=6, sampling='segments', train=True, seed=seed)[key]['frames']
    base = draw((0, 0, 0))
    assert torch.equal(base, draw(0)) and torch.equal(base, draw((0, 0, 0)))
    assert not any(torch.equal(base, other) for other in (draw((0, 1, 0)), draw((0, 0, 1)), draw(0, seed=1)))
    data = VideoDataset(m, frames=6, train=True); data.set_epoch(1)
    assert torch.equal(data[0]['frames'], draw((0, 1, 0)))
    still = VideoDataset(m, frames=6)
    assert torch.equal(still[(0, 0, 0)]['frames'], still[(0, 5, 2)]['frames'])

@pytest.mark.parametrize('options, match', [(dict(frames=0), 'frames'), (dict(frames=4, sampling='uniform'), 'sampling'), (dict(frames=4, clips=0), 'clips'), (dict(frames=4, clips=2, train=True), 'clips'),
                                            (dict(frames=4, stride=.5), 'stride'), (dict(frames=4, short='pad'), 'short'), (dict(frames=4, length=3), 'length')])
def test_bad_options(videos, options, match):
    with pytest.raises(ValueError, match=match): VideoDataset(Manifest.from_folder(videos), **options)

def test_index_out_of_range_and_pickling(videos):
    data = VideoDataset(Manifest.from_folder(videos), frames=4, train=True)
    for key in (9, -1, (9, 0, 0)):
        with pytest.raises(IndexError, match='0 to 8'): data[key]
    assert torch.equal(pickle.loads(pickle.dumps(data))[3]['frames'], data[3]['frames'])

# ---- batches
def test_collate_pads_and_keeps_other_tensors():
    item = lambda h, w, i: dict(frames=torch.full((2, h, w, 3), 9, dtype=torch.uint8), label=i, index=i, joints=torch.full((5,), i))
    batch = collate([item(4, 7, 0), dict(index=1, error='torn'), item(6, 5, 2)])
    assert batch['frames'].shape == (2, 2, 6, 7, 3) and batch['valid'].tolist() == [[4, 7], [6, 5]] and batch['failed'] == [(1, 'torn')]
    assert batch['frames'].dtype == torch.uint8 and batch['frames'].sum() == 9*2*3*(4*7 + 6*5) and (batch['frames'][0, :, :4, :7] == 9).all()
    assert batch['label'].tolist() == batch['index'].tolist() == [0, 2] and batch['joints'].shape == (2, 5)

def test_collate_of_nothing():
    for items in ([], [dict(index=3, error='torn')]):
        batch = collate(items, (8,))
        assert batch['frames'].shape == (0, 8, 0, 0, 3) and batch['valid'].shape == (0, 2) and batch['label'].shape == (0,) and len(batch['failed']) == len(items)
        assert batch['label'].dtype == batch['index'].dtype == batch['valid'].dtype == torch.int64

@pytest.mark.parametrize('counts', [(1, 1), (90, 9, 1), (5, 5, 5), (1, 200), (7,)])
def test_balanced_order(counts):
    targets = torch.repeat_interleave(torch.arange(len(counts))*2, torch.tensor(counts))            # labels with gaps: classes without rows
    rows, repeats = balanced_order(targets, generator(0))
    share = targets[rows].bincount()[::2]
    assert len(rows) == len(targets) and share.max() - share.min() <= 1
    assert len(set(zip(rows.tolist(), repeats.tolist()))) == len(rows)
    for k in range(len(counts)):                                                                    # within a class, no row twice before all once
        used = rows[targets[rows] == 2*k].bincount(minlength=len(targets))[targets == 2*k]
        assert used.max() - used.min() <= 1

# ---- loader
class Counted(VideoDataset):
    read = []
    def __getitem__(self, key): self.read.append(key[0]); return super().__getitem__(key)

def indices(batches): return [batch['index'].tolist() for batch in batches]

def test_train_order_and_resume(videos):
    m = Manifest.from_folder(videos)
    make = lambda **o: Loader(VideoDataset(m, frames=3, train=True), batch=2, train=True, **{'workers': 0, **o})
    loader = make()
    first = list(loader.epoch(0))
    assert len(loader) == len(first) == 4 and len(set(sum(indices(first), []))) == 8
    assert indices(first) != indices(loader.epoch(1)) and indices(first) != indices(make(seed=1).epoch(0))
    for other, start in ((make(), 0), (make(), 3), (make(workers=2), 1), (make(), 4)):
        again = list(other.epoch(0, start))
        assert len(again) == 4 - start
        for a, b in zip(first[start:], again):
            assert torch.equal(a['frames'], b['frames']) and a['index'].tolist() == b['index'].tolist()

def test_skipped_steps_are_not_decoded(videos):
    Counted.read = []
    loader = Loader(Counted(Manifest.from_folder(videos), frames=3), batch=2, workers=0)
    assert indices(loader.epoch(0, start=3)) == [[6, 7], [8]] and Counted.read == [6, 7, 8]

def test_persistent_workers_follow_the_epoch(videos):
    loader = Loader(VideoDataset(Manifest.from_folder(videos), frames=6, train=True), batch=9, train=True, workers=1)
    one, two = ({int(i): f for i,f in zip(b['index'], b['frames'])} for e in (0, 1) for b in loader.epoch(e))
    assert not all(torch.equal(one[i], two[i]) for i in range(9))

def test_an_abandoned_epoch_does_not_spoil_the_next(videos):
    m = Manifest.from_folder(videos)
    loader = Loader(VideoDataset(m, frames=3, train=True), batch=2, train=True, workers=1)
    expect = indices(Loader(VideoDataset(m, frames=3, train=True), batch=2, train=True, workers=0).epoch(1))
    old = loader.epoch(0); next(old)
    assert indices(loader.epoch(1)) == expect
    with pytest.raises(RuntimeError, match='one epoch at a time'): next(old)

def test_global_random_stream_is_left_alone(videos):
    state = torch.get_rng_state()
    list(Loader(VideoDataset(Manifest.from_folder(videos), frames=2, train=True), batch=4, train=True, balanced=True, workers=1).epoch(0))
    assert torch.equal(state, torch.get_rng_state())

@pytest.mark.parametrize('world', [1, 2, 4, 7])
@pytest.mark.parametrize('batch', [1, 2])
def test_ranks(videos, world, batch):
    data = VideoDataset(Manifest.from_folder(videos), frames=2)
    plan = lambda train: [Loader(data, batch, train=train, workers=0, rank=r, world=world).keys(3) for r in range(world)]
    rows = lambda plans: sorted(key[0] for steps in plans for step in steps for key in step)
    test = plan(False)
    assert rows(test) == list(range(9)) and len({len(steps) for steps in test}) == 1
    if 9 < batch*world:
        with pytest.raises(ValueError, match='batch'): plan(True)
    else:
        train = plan(True)
        assert len(set(rows(train))) == len(rows(train)) == 9//(batch*world)*batch*world
        assert all(len(step) == batch for steps in train for step in steps)

def test_empty_steps_are_batches_of_none(videos):
    data = VideoDataset(Manifest.from_folder(videos), frames=2)
    last = list(Loader(data, 2, workers=0, rank=2, world=4).epoch(0))[-1]
    assert last['frames'].shape == (0, 2, 0, 0, 3) and last['failed'] == []

def test_balanced_loader(videos):
    m = Manifest.from_folder(videos).select([True]*4 + [False]*2 + [True]*3)
    loader = Loader(VideoDataset(m, frames=6, train=True), batch=3, train=True, balanced=True, workers=0)
    labels = torch.cat([batch['label'] for batch in loader.epoch(0)])
    assert labels.bincount().tolist() == [2, 2, 2]

@pytest.mark.parametrize('spoil', [lambda b: b[:len(b)//2], lambda b: b'', lambda b: b'not a video at all', None])
def test_a_bad_file_is_named_and_the_rest_goes_on(videos, tmp_path, spoil):
    for k in range(10):
        (tmp_path/f'{k % 2}').mkdir(exist_ok=True)
        (tmp_path/f'{k % 2}'/f'{k}.mp4').write_bytes((videos/'class0'/'0.mp4').read_bytes())
    m, bad = Manifest.from_folder(tmp_path), tmp_path/'1'/'5.mp4'
    if spoil: bad.write_bytes(spoil(bad.read_bytes()))
    else: bad.unlink()
    loader = Loader(VideoDataset(m, frames=3, train=True), batch=5, train=True, workers=1)
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        assert sum(len(b['label']) for b in batches) == 9 and sum(len(b['failed']) for b in batches) == 1
        assert [name for name,_ in loader.failures] == ['1/5.mp4'] and '5.mp4' in loader.failures[0][1]

def test_no_readable_file_at_all_ends_the_epoch(videos, tmp_path):
    loader = Loader(VideoDataset(Manifest(Manifest.from_folder(videos).rows, tmp_path), frames=3), batch=4, workers=0)
    with pytest.raises(RuntimeError, match='none of 9 files.*class0/0.mp4'): list(loader.epoch(0))

@pytest.mark.parametrize('options, match', [(dict(batch=0), 'batch'), (dict(batch=10, train=True), 'batch'), (dict(batch=1, rank=2, world=2), 'rank'), (dict(batch=1, balanced=True), 'balanced')])
def test_bad_loader_options(videos, options, match):
    with pytest.raises(ValueError, match=match): Loader(VideoDataset(Manifest.from_folder(videos), frames=2), **options)

def test_start_out_of_range(videos):
    loader = Loader(VideoDataset(Manifest.from_folder(videos), frames=2), batch=4, workers=0)
    for start in (-1, 4):
        with pytest.raises(ValueError, match='start'): loader.epoch(0, start)

def test_spawned_workers(videos):
    loader = Loader(VideoDataset(Manifest.from_folder(videos), frames=2), batch=5, workers=1)
    loader._loader.multiprocessing_context = 'spawn'
    assert indices(loader.epoch(0)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]

def test_real_files_of_many_formats():
    folder = Path(os.environ.get('FGAR_REAL', Path(__file__).parents[1].parent/'shared'/'real'))/'formats'
    if not folder.is_dir(): pytest.skip('FGAR_REAL: no folder with real files')
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in VIDEO_ENDINGS)
    m = Manifest(table(path=[str(p.relative_to(folder)) for p in files], label=['any']*len(files)), folder, check_files=True)
    loader = Loader(VideoDataset(m, frames=2, size=64), batch=8, workers=0)
    assert sorted(sum(indices(loader.epoch(0)), [])) == list(range(len(files))) and not loader.failures


def test_interval_sampling(tmp_path):
    "A random step and start when training, the whole video when testing."
    write_video(tmp_path/'a.mp4', torch.zeros(40, 16, 16, 3, dtype=torch.uint8)); write_video(tmp_path/'b.mp4', torch.zeros(3, 16, 16, 3, dtype=torch.uint8))
    manifest = Manifest(pd.DataFrame(dict(path=['a.mp4', 'b.mp4'], label=['x', 'y'])), tmp_path)
    train, test = (VideoDataset(manifest, 5, 'interval', train=t) for t in (True, False))
    steps = [train.indices(0, torch.Generator().manual_seed(i)).diff() for i in range(60)]
    assert all((s == s[0]).all() for s in steps) and {int(s[0]) for s in steps} <= set(range(2, 10)) and len({int(s[0]) for s in steps}) > 4
    assert test.indices(0).tolist() == [0, 8, 16, 24, 32] and test.indices(1).tolist() == [0, 1, 2, 2, 2]
    assert VideoDataset(manifest, 5, 'interval', stack=2).indices(0).view(5, 3).diff(dim=1).eq(1).all()
    with pytest.raises(ValueError, match="clips: expected 1 with sampling='interval'"): VideoDataset(manifest, 5, 'interval', clips=2)
