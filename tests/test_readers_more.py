"fgar.data.readers_more: each layout in miniature, the ways in which its files are wrong, and the real label files where they are."
import json, pickle, sys

import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from test_readers import make, whole

from fgar import cli
from fgar.data.datasets import Manifest, VideoDataset
from fgar.data.readers import DataConfig, LabelError, flip_flags, read_dataset, run_data
from fgar.data.readers_more import GOLF_EVENTS, STROKES, moment, object_boxes
from fgar.data.video import write_video

@pytest.fixture
def annotations(real): return real/'annotations'

@pytest.fixture(scope='module')
def second(tmp_path_factory): return write_video(tmp_path_factory.mktemp('clip')/'a.mp4', torch.zeros(20, 16, 16, 3, dtype=torch.uint8), fps=10).read_bytes()      # 2 s at 10 frames a second

# ---- moments
def test_moment():
    assert moment(3., .5) == dict(start=2.5, end=3.5, moment=3.) and moment(.1, .5)['start'] == 0 and moment(9.8, .5, 10.)['end'] == 10.
    for bad in (0, -1., float('nan')):
        with pytest.raises(ValueError, match='around: expected more than 0 s'): moment(1., bad)

def test_a_wrong_span_is_not_the_fault_of_the_file(tmp_path, second):
    make(tmp_path, {'tennis/train.json': json.dumps([clip('a_1_2', (5, 'a'))]), 'a_1_2.mp4': second})
    with pytest.raises(LabelError) as e: read_dataset('spot-tennis', tmp_path, around=0.)
    assert str(e.value).startswith('around: expected more than 0 s')

def clip(name, *events, fps=10., frames=20): return dict(video=name, num_frames=frames, num_events=len(events), fps=fps, width=16, height=16, events=[dict(frame=f, label=label, comment='c') for f,label in events])

@pytest.mark.parametrize('name', ['tennis', 'fs_comp', 'fs_perf', 'finediving', 'finegym'])
def test_spotting_sets(tmp_path, second, name):
    other = 'finegym' if name == 'tennis' else 'tennis'                                     # another set beside it must not be read
    make(tmp_path, {f'data/{name}/train.json': json.dumps([clip('open_2015_final_100_120', (5, 'a'), (5, 'b'), (19, 'a'))]), f'data/{name}/val.json': json.dumps([clip('open_2016_02_00100_00120', (0, 'b')), clip('quiet_1_2')]), f'data/{name}/class.txt': 'a\nb\n',
                    f'data/{other}/train.json': json.dumps([clip('x', (1, 'z'))]), f'data/{other}/class.txt': 'z\n', 'v/open_2015_final_100_120.mp4': second, 'v/open_2016_02_00100_00120.mp4': second})
    reading = read_dataset(f'spot-{name}', tmp_path, around=.3)
    rows = whole(reading, 4)
    assert rows.label.tolist() == ['a', 'b', 'a', 'b'] and rows.split.tolist() == ['train']*3 + ['val'] and rows.group.tolist() == ['open_2015_final']*3 + ['open_2016']
    assert rows[['start', 'end', 'moment']].values.tolist() == [pytest.approx(x) for x in ([.2, .8, .5], [.2, .8, .5], [1.6, 2., 1.9], [0, .3, 0])] and 'without an event, so without a row: 1' in str(reading)
    flat = make(tmp_path/'flat', {f'{name}_val.json': json.dumps([clip('v', (3, 'a'), (4, 'q'))]), f'{name}_class.txt': 'a\n', f'{other}_val.json': '[]', 'v.mp4': second})
    reading = read_dataset(f'spot_{name}', flat)
    assert whole(reading, 2).label.tolist() == ['a'] and reading.missing.reason.tolist() == ["label not in the list of classes: 'q'"]
    assert len(read_dataset(f'spot-{name}', tmp_path/'data'/name, annotations=tmp_path/'data'/name, keep=True).manifest) == 4      # the set's own folder

def test_rate_of_events(tmp_path, second):
    make(tmp_path, {'tennis/val.json': json.dumps([clip('a', (10, 'x'), fps=-1), clip('b', (10, 'x'), fps=20.), clip('c', (10, 'x'), fps=20.)]), 'a.mp4': second, 'b.mp4': second})
    for n in range(20): Image.new('L', (16, 16)).save((tmp_path/'c').joinpath(f'{n:06}.jpg')) if (tmp_path/'c').is_dir() else (tmp_path/'c').mkdir() or Image.new('L', (16, 16)).save(tmp_path/f'c/{n:06}.jpg')
    assert read_dataset('spot-tennis', tmp_path).manifest.rows.moment.tolist() == [1., .5, .4]                  # the file's own 10, the stated 20, the 25 of images
    assert read_dataset('spot-tennis', tmp_path, fps=40).manifest.rows.moment.tolist() == [.25]*3
    assert run_data(DataConfig('spot-tennis', str(tmp_path), str(tmp_path/'out/m.csv'), quiet=True, around=.2)) == 0
    manifest = Manifest.read(tmp_path/'out/m.csv', check_files=True)
    assert VideoDataset(manifest, frames=2)[2]['frames'].shape == (2, 16, 16, 3) and VideoDataset(manifest, frames=10).indices(2).tolist() == list(range(5, 15))     # image 10 ± 5

GAME = 'england_efl/2019-2020/2019-10-01 - Leeds United - West Bromwich'
def ball(*events): return json.dumps(dict(UrlLocal=GAME, annotations=[dict(gameTime='1 - 00:01', label=label, position=str(ms), team='left', visibility='visible') for ms,label in events]))
def test_soccernet_ball(tmp_path, second):
    hull = GAME.replace('Leeds United', 'Hull City')
    make(tmp_path/'a', {f'train/{GAME}/Labels-ball.json': ball((1240, 'PASS'), (400, 'DRIVE')), f'train/{GAME}/224p.mp4': second, f'valid/{hull}/Labels-ball.json': ball((1000, 'PASS'), (1000, 'HEADER'), (1500, 'DANCE')), f'valid/{hull}/720p.mp4': second, 'ball_class.txt': 'PASS\nDRIVE\nHEADER\n'})
    reading = read_dataset('soccernet-ball', tmp_path/'a')
    rows = whole(reading, 5)
    assert rows[['label', 'split', 'start', 'end']].values.tolist() == [['PASS', 'train', .74, 1.74], ['DRIVE', 'train', 0, .9], ['PASS', 'val', .5, 1.5], ['HEADER', 'val', .5, 1.5]] and rows.group.nunique() == 2
    assert rows.path.iloc[0].endswith('224p.mp4') and rows.path.iloc[2].endswith('720p.mp4') and 'DANCE' in reading.missing.reason.iloc[0]
    lists = json.dumps([dict(video=GAME, num_frames=9), dict(video=hull, num_frames=9)])
    make(tmp_path/'b', {f'{GAME}/Labels-ball.json': ball((1240, 'PASS')), f'{GAME}/720p.mp4': second, 'soccernetball_test.json': lists})                 # T-DEED's lists decide the split
    reading = read_dataset('soccernet_ball', tmp_path/'b')
    assert whole(reading, 2).split.tolist() == ['test'] and reading.missing[['path', 'split']].values.tolist() == [[hull, 'test']] and 'agreement' in reading.missing.reason.iloc[0]
    with pytest.raises(FileNotFoundError, match='none of the 2 rows.*2 no Labels-ball.json'): read_dataset('soccernet_ball', make(tmp_path/'c', {'soccernetball_test.json': lists}))
    with pytest.raises(LabelError, match='Labels-ball.json: expected JSON'): read_dataset('soccernet_ball', make(tmp_path/'d', {f'{GAME}/Labels-ball.json': '{"annot'}))

# ---- GolfDB
SWING = dict(id=0, youtube_id='vid', player='P', sex='f', club='driver', view='face-on', slow=0, events=np.array([11, 12, 13, 14, 15, 16, 17, 18, 19, 30]), bbox=[.1, 0., .5, 1.], split=3)
@pytest.fixture
def golf(tmp_path, second):
    savemat = pytest.importorskip('scipy.io').savemat
    savemat(tmp_path/'golfDB.mat', dict(golfDB=[SWING, SWING | dict(id=1, youtube_id='whole', split=1, club='iron'), SWING | dict(id=2, youtube_id='gone')]))
    return make(tmp_path, {'videos_160/0.mp4': second, 'whole.mp4': second})

def test_golfdb(golf):
    reading = read_dataset('GolfDB', golf, around=.1)
    rows = whole(reading, 24)
    assert rows.label.tolist() == list(GOLF_EVENTS)*2 and set(rows.path) == {'videos_160/0.mp4', 'whole.mp4'} and rows.split.tolist() == ['train']*8 + ['test']*8 and set(rows.group) == {'vid', 'whole'}
    assert rows.moment.iloc[0] == pytest.approx(.1) and rows.moment.iloc[8] == pytest.approx(1.1)           # the clip begins at frame 11; of the whole video 12 is the twelfth
    assert rows[['start', 'end']].iloc[0].tolist() == pytest.approx([0, .2]) and reading.missing.path.unique().tolist() == ['gone.mp4'] and 'vanish' in str(reading)
    swings = whole(read_dataset('golfdb', golf, label='club', split=3), 3)
    assert swings.label.tolist() == ['driver', 'iron'] and swings.split.tolist() == ['test', 'train'] and swings[['start', 'end']].values.tolist() == [pytest.approx([0, 2.]), pytest.approx([1., 3.])]
    with pytest.raises(LabelError, match='split: expected 1 to 4, got 5'): read_dataset('golfdb', golf, split=5)
    with pytest.raises(KeyError, match='event, club, view'): read_dataset('golfdb', golf, label='clubs')

def test_a_pickle_is_never_opened(tmp_path, capsys):
    class Trap:
        def __reduce__(self): return print, ('sprung',)
    make(tmp_path, {'golfDB.pkl': pickle.dumps(Trap()), 'a.mp4': None})
    with pytest.raises(LabelError, match='golfDB.pkl: expected golfDB.mat.*runs code'): read_dataset('golfdb', tmp_path)
    assert 'sprung' not in capsys.readouterr().out
    pickle.loads((tmp_path/'golfDB.pkl').read_bytes())
    assert 'sprung' in capsys.readouterr().out                                              # the trap would have worked

def test_mat_files_that_are_not_what_they_should_be(golf):
    from scipy.io import savemat
    raw = (golf/'golfDB.mat').read_bytes()
    for bad in (b'', b'text', raw[:200], raw[:len(raw)//2]):
        (golf/'golfDB.mat').write_bytes(bad)
        with pytest.raises(LabelError, match='golfDB.mat: expected a MATLAB file'): read_dataset('golfdb', golf)
    savemat(golf/'golfDB.mat', dict(other=1))
    with pytest.raises(LabelError, match='variable golfDB'): read_dataset('golfdb', golf)

def test_missing_parsers_are_named(golf, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'scipy.io', None); monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(ImportError, match='golfdb: reading golfDB.mat needs scipy.*pip install scipy'): read_dataset('golfdb', golf)
    make(tmp_path/'m', {**{f'sequences{part}.txt': '' for part in ('TrainAttr', 'Val', 'Test')}, 'attributesAnnotations_MPII-Cooking-2.mat': 'x'})
    with pytest.raises(ImportError, match='pip install h5py'): read_dataset('mpii-cooking-2', tmp_path/'m')
    assert cli.main(['data', 'golfdb', '--root', str(golf), '--out', str(tmp_path/'m.csv')]) == 1 and 'pip install scipy' in capsys.readouterr().err

# ---- one label of several
def test_thetis(tmp_path):
    make(tmp_path, {**{f'VIDEO_RGB/x/{v}.avi': None for v in ('p1_bslice_s1', 'p1_serflat_s2', 'p2_smash_s3')}, 'data_file.csv': 'train,backhand,p1_bslice_s1\nvalidation,service,p1_serflat_s2\ntest,smash,p2_smash_s3\ntest,smash,p2_dance_s3\n'})
    reading = read_dataset('THETIS', tmp_path)
    rows = whole(reading, 4)
    assert rows.label.tolist() == ['backhand slice', 'flat service', 'smash'] and rows.split.tolist() == ['train', 'val', 'test'] and rows.group.tolist() == ['p1', 'p1', 'p2'] and reading.manifest.leaks() == {'p1': ['train', 'val']}
    assert reading.missing.reason.tolist() == ["no shot in the name 'p2_dance_s3'"] and read_dataset('thetis', tmp_path, label='coarse').manifest.rows.label.tolist() == ['backhand', 'service', 'smash']

def test_mlb_youtube(tmp_path):
    pitch = lambda subset, video, *words: dict(subset=subset, labels=list(words), start=10., end=17., url=f'https://www.youtube.com/watch?v={video}', type='slider', speed=90.)
    make(tmp_path, {'A.mp4': None, 'N.mp4': None, 'game2.mkv': None, 'mlb-youtube-segmented.json': json.dumps(dict(A=pitch('training', 'game1', 'swing', 'strike'), B=pitch('testing', 'game2', 'ball'), C=pitch('testing', 'game3', 'ball'), D=pitch('testing', 'game2') | dict(start=-9., end=-2.))),
                    'mlb-youtube-negative.json': json.dumps(dict(N=dict(interval=[5, 10], ytid='game1'), M=dict(interval=[5, 10], ytid='game2')))})
    reading = read_dataset('mlb_youtube', tmp_path)
    rows = whole(reading, 6)
    assert rows[['path', 'label', 'split', 'group']].values.tolist() == [['A.mp4', 'swing + strike', 'train', 'game1'], ['game2.mkv', 'ball', 'test', 'game2'], ['N.mp4', 'no activity', 'train', 'game1'], ['game2.mkv', 'no activity', 'test', 'game2']]
    assert rows.labels.iloc[0] == 'swing; strike' and rows.start.isna().tolist() == [True, False, True, False] and rows.end.iloc[3] == 10 and not reading.manifest.leaks()
    assert reading.missing.reason.tolist() == ['not found', 'start is not before end: -9, -2']

VERBS, NOUNS = 'id,key,instances,category\n1,put,"[\'a, b\']",leave\n0,take,"[]",retrieve\n', '"id","key","instances","category"\n0,"tap","[]","x"\n1,"spoon","[]","y"\n'
EPIC = 'narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n'
def test_epic_kitchens(tmp_path):
    line = lambda n, video, verb, noun: f'{video}_{n},P01,{video},00:00:01.000,00:01:00.50,00:01:01.25,1,9,"take, slowly",take,{verb},spoon,{noun},"[\'spoon\']",[1]\n'
    make(tmp_path, {'P01/videos/P01_01.MP4': None, 'P01/videos/P01_11.MP4': None, 'EPIC_100_verb_classes.csv': VERBS, 'EPIC_100_noun_classes_v2.csv': NOUNS, 'EPIC_100_train.csv': EPIC + line(0, 'P01_01', 0, 1) + line(1, 'P01_01', 1, 0), 'EPIC_100_validation.csv': EPIC + line(0, 'P01_11', 1, 1) + line(0, 'P01_12', 1, 1)})
    reading = read_dataset('EPIC-KITCHENS-100', tmp_path)
    rows = whole(reading, 4)
    assert rows.label.tolist() == ['take spoon', 'put tap', 'put spoon'] and rows.split.tolist() == ['train', 'train', 'val'] and rows[['start', 'end']].iloc[0].tolist() == [60.5, 61.25] and reading.missing.reason.tolist() == ['not found']
    assert [read_dataset('epic-kitchens-100', tmp_path, label=kind).manifest.rows.label.tolist() for kind in ('verb', 'noun')] == [['take', 'put', 'put'], ['spoon', 'tap', 'spoon']]       # two actions in one span are kept
    make(tmp_path, {'EPIC_100_train.csv': EPIC + line(0, 'P01_01', 7, 1)})
    with pytest.raises(LabelError, match='EPIC_100_train.csv, line 2'): read_dataset('epic-kitchens-100', tmp_path)

def test_mpii_cooking_2(tmp_path, second):
    h5py = pytest.importorskip('h5py')
    def write(path, rows, activities):
        with h5py.File(path, 'w') as file:
            def names(key, texts):
                refs = file.create_dataset(f'annos/{key}', (len(texts), 1), dtype=h5py.ref_dtype)
                for i, text in enumerate(texts): refs[i, 0] = file.create_dataset(f'refs/{key}{i}', data=np.frombuffer(text.encode('utf-16-le'), np.uint16)[:, None]).ref
            names('fileName', [r[0] for r in rows]); names('activity', [r[1] for r in rows]); names('attributeMap', activities)
            for k, key in enumerate(('startFrame', 'endFrame')): file[f'annos/{key}'] = np.array([[float(r[2+k])] for r in rows])
    rows = [('s07-d72-cam-002', 'cut', 1, 10), ('s08-d02-cam-002', 'peel', 11, 20), ('s07-d72-cam-002', 'carrot', 1, 10), ('s13-d01-cam-002', 'cut', 1, 5)]
    write(tmp_path/'attributesAnnotations_MPII-Cooking-2.mat', rows, ['cut', 'peel', 'knife'])
    make(tmp_path, {'videos/s07-d72-cam-002.avi': second, 'videos/s08-d02-cam-002.avi': second, 'experimentalSetup/sequencesTrainAttr.txt': 's07-d72\n', 'experimentalSetup/sequencesVal.txt': '', 'experimentalSetup/sequencesTest.txt': 's08-d02\n'})
    reading = read_dataset('MPII Cooking 2', tmp_path)
    kept = whole(reading, 3)
    assert kept[['label', 'split', 'group', 'start', 'end']].values.tolist() == [['cut', 'train', 's07', 0, 1.], ['peel', 'test', 's08', 1., 2.]] and reading.missing.reason.tolist() == ['in no list of sequences'] and 'left aside: 1' in str(reading)
    (tmp_path/'attributesAnnotations_MPII-Cooking-2.mat').write_bytes(b'not HDF5')
    with pytest.raises(LabelError, match='expected HDF5'): read_dataset('mpii-cooking-2', tmp_path)

# ---- Something-Else
def test_something_else(tmp_path):
    entry = lambda video, template: dict(id=video, label='x', template=template, placeholders=['cup'])
    files = {f'20bn-something-something-v2/{v}.webm': None for v in range(1, 7)}
    labels = json.dumps({'Stuffing something into something': 1, 'Holding something': 0})
    make(tmp_path, {**files, 'compositional/train.json': json.dumps([entry('1', 'Holding [something]')]), 'compositional/validation.json': json.dumps([entry('2', 'Stuffing [something] into [something]'), entry('9', 'Holding [something]'), entry('3', 'Dancing')]), 'compositional/labels.json': labels,
                    'fewshot/base_training_set.json': json.dumps([entry('4', 'Holding [something]')]), 'fewshot/base_validation_set.json': '[]', 'fewshot/base_labels.json': labels, 'fewshot/finetune_labels.json': labels,
                    'fewshot/finetune_5shot_training.json': json.dumps([entry('5', 'Holding [something]')]), 'fewshot/finetune_10shot_train.json': json.dumps([entry('6', 'Holding [something]')])})
    rows = whole(reading := read_dataset('something-else', tmp_path), 4)
    assert rows.label.tolist() == ['Holding something', 'Stuffing something into something'] and rows.split.tolist() == ['train', 'val'] and sorted(r.partition(':')[0] for r in reading.missing.reason) == ['label not in the list of labels', 'not found']
    assert [read_dataset(f'something-else-{part}', tmp_path).manifest.rows.path.iloc[0][-6] for part in ('base', '5shot', '10shot')] == ['4', '5', '6']

# ---- lists
FORMS = {'video_test_list.txt': ('test.mp4 0\ntest.mp4 0\n', [['test.mp4', 'a', 'a']], ['named twice']), 'video_train_list_multi_label.txt': ('test.mp4 0 2\n', [['test.mp4', 'a', 'a; c']], []),
         'rawframe_val_list.txt': ('imgs 5 1\nimgs 50 1\nimgs 5 9\nimgs 5\n', [['imgs', 'b', 'b']], ['images missing', 'class 9 of 3 names', 'no label given']), 'rawframe_list_multi_label.txt': ('imgs 5 1 2\n', [['imgs', 'b', 'b; c']], []),
         'rawframe_list_with_offset.txt': ('imgs 2 5 1\nimgs 6 5 1\n', [['imgs', 'b', 'b']], ['images missing'])}
@pytest.mark.parametrize('name', FORMS)
def test_text_lists(tmp_path, name):
    text, kept, left = FORMS[name]
    make(tmp_path, {'test.mp4': None, **{f'imgs/{n:05}.jpg': b'j' for n in range(1, 8)}, f'lists/{name}': text, 'lists/label_map.txt': 'a\nb\nc\n'})
    reading = read_dataset('mmaction2', tmp_path, annotations=tmp_path/'lists')
    rows = whole(reading, text.count('\n'))
    assert rows[['path', 'label', 'labels']].values.tolist() == kept and [r.partition(':')[0] for r in reading.missing.reason] == left
    assert rows.split.iloc[0] == next((part for part in ('train', 'val', 'test') if part in name), '')
    if 'offset' in name: assert rows[['start', 'end']].values.tolist() == [pytest.approx([2/25, 7/25])]
    other = make(tmp_path/'names', {'names.txt': '0: x\n1: y\n2: z\n'})/'names.txt'
    assert set(read_dataset('mmaction2', tmp_path, annotations=tmp_path/'lists', classes=str(other)).manifest.labels) <= set('xyz')
    with pytest.raises(LabelError, match='classes: expected a file'): read_dataset('mmaction2', tmp_path, classes=str(tmp_path/'none'))

def test_json_lists_and_proposals(tmp_path):
    read = lambda name, text: read_dataset('mmaction2', make(tmp_path/name, {'v.mp4': None, 'w.mp4': None, name: text}))
    rows = whole(read('action_test_anno.json', json.dumps(dict(v=dict(duration_second=1, annotations=[dict(segment=[.3, .6], label='Rock climbing')]), w=dict(annotations=[])))), 1)
    assert rows[['path', 'label', 'start', 'end', 'split']].values.tolist() == [['v.mp4', 'Rock climbing', .3, .6, 'test']]
    rows = whole(read('activity_net.v1-3.min.json', json.dumps(dict(database=dict(v=dict(subset='validation', annotations=[dict(segment=[0, 1], label='Judo')])), version='1'))), 1)
    assert rows[['label', 'split']].values.tolist() == [['Judo', 'val']]
    rows = whole(read('hvu_video_test_anno.json', json.dumps([dict(filename='v.mp4', label=dict(concept=[250, 131], action=[180])), dict(filename='w.mp4', label=dict(scene=[7]))])), 2)
    assert rows[['label', 'labels']].values.tolist() == [['action 180', 'action 180; concept 250; concept 131'], ['scene 7', 'scene 7']]
    assert whole(read('video_text_test_list.json', json.dumps({'v.mp4': ['He swims.', 'He dives.']})), 2).sentence.tolist() == ['He swims.', 'He dives.']
    reading = read('proposal_test_list.txt', '# 0\nv\n5\n1\n2\n3 1 2\n3 3 5\n2\n3 1.0 1.0 1 2\n3 .5 .5 1 3\n# 1\nw\n5\n2\n1\n0 1 2\n0\n')
    assert whole(reading, 3)[['path', 'label', 'start', 'end']].values.tolist() == [['v.mp4', '3', 1, 2], ['v.mp4', '3', 3, 5], ['w.mp4', '0', .5, 1]] and 'left aside: 2' in str(reading)

@pytest.mark.parametrize('name, file, text, match', [('spot-tennis', 'tennis_val.json', '[{"video": "a"}]', 'tennis_val.json'), ('thetis', 'data_file.csv', 'train,backhand\n', None), ('mlb-youtube', 'mlb-youtube-segmented.json', '{"A": {"subset": "training"}}', 'mlb-youtube-segmented.json, A'),
                                                     ('mmaction2', 'train_list.txt', 'a.mp4 0\na.mp4 x\n', 'train_list.txt, line 2'), ('mmaction2', 'train_list.txt', '# 0\nv\n', 'train_list.txt'), ('soccernet-ball', 'Labels-ball.json', '{"annotations": [{"label": "PASS", "position": "soon"}]}', 'Labels-ball.json')])
def test_label_files_that_are_not_what_they_should_be(tmp_path, name, file, text, match):
    make(tmp_path, {file: text, 'a.mp4': None})
    with pytest.raises(LabelError if match else FileNotFoundError, match=match or name): read_dataset(name, tmp_path)

# ---- the real label files
@pytest.mark.parametrize('name, rows, labels, split, groups', [('spot-tennis', 3642, 6, dict(val=3642), 19), ('spot-fs-comp', 584, 4, dict(val=584), 7), ('spot-fs-perf', 932, 4, dict(val=932), 11), ('spot-finediving', 1063, 4, dict(val=1063), 126)])
def test_real_spotting(annotations, name, rows, labels, split, groups):
    reading = read_dataset(name, annotations/'spot_events', keep=True)
    table = whole(reading, rows)
    assert len(table) == rows and len(reading.manifest.labels) == labels and table.split.value_counts().to_dict() == split and table.group.nunique() == groups and (table.moment.between(table.start, table.end)).all()
    if name != 'spot-finediving': sources = pd.read_csv(annotations/f"spot_events/{'tennis' if 'tennis' in name else 'fs_comp'}_videos.csv"); assert set(table.group) <= set(sources.name)      # a group is a broadcast

def test_real_finegym_classes(annotations, tmp_path):
    names = (annotations/'spot_events/finegym_class.txt').read_text().split()
    make(tmp_path, {'finegym_class.txt': '\n'.join(names), 'finegym_val.json': json.dumps([clip('a_E_1_2', *enumerate(names), frames=40)]), 'a_E_1_2.mp4': None})
    assert len(names) == 32 and whole(read_dataset('spot-finegym', tmp_path), 32).label.tolist() == names

def test_real_golfdb(annotations):
    pytest.importorskip('scipy')
    rows = whole(reading := read_dataset('golfdb', annotations/'golfdb', keep=True), 8*1400)
    assert set(reading.missing.reason) == {'named twice'} and rows.swing.nunique() == 1400 and rows.group.nunique() == 580 and not reading.manifest.leaks()
    swings = read_dataset('golfdb', annotations/'golfdb', keep=True, label='view', split=2)
    assert len(whole(swings, 1400)) + len(swings.missing) == 1400 and set(swings.manifest.labels) == {'face-on', 'down-the-line', 'other'}

def test_real_thetis(annotations):
    reading = read_dataset('thetis', annotations/'thetis', keep=True)
    rows = whole(reading, 1980)
    assert set(rows.label) == set(STROKES.values()) and (rows.label.value_counts() == 165).all() and rows.split.value_counts().to_dict() == dict(train=1584, val=204, test=192) and rows.coarse.nunique() == 6 and len(reading.manifest.leaks()) == 55

def test_real_mlb(annotations):
    rows = whole(read_dataset('mlb-youtube', annotations/'mlb_youtube', keep=True), 2983)
    assert set(rows.label) == {'no activity'} and rows.group.nunique() == 14

def test_real_soccernet(annotations, tmp_path, second):
    with pytest.raises(FileNotFoundError, match='none of the 7 rows of soccernet-ball can be used .7 no Labels-ball.json'): read_dataset('soccernet-ball', annotations/'soccernet_ball')
    folder = annotations/'soccernet_ball'
    names, games = (folder/'tdeed_soccernetball_class.txt').read_text().split('\n'), [(part, g['video']) for part in ('train', 'val', 'test') for g in json.loads((folder/f'tdeed_soccernetball_{part}.json').read_text())]
    for _, game in games: make(tmp_path, {f'{game}/Labels-ball.json': ball(*((1000, n) for n in names if n)), f'{game}/224p.mp4': second})
    make(tmp_path, {path.name: path.read_text() for path in folder.iterdir() if 'soccernetball' in path.name})
    reading = read_dataset('soccernet-ball', tmp_path)
    rows = whole(reading, 7*12)
    assert rows.groupby('split').group.nunique().to_dict() == dict(train=4, val=1, test=2) and len(rows) == 84 and rows.label.nunique() == 12

def test_real_epic_classes(annotations, tmp_path):
    for path in (annotations/'epic_kitchens_100').iterdir(): make(tmp_path, {path.name: path.read_bytes()})
    line = lambda n, verb, noun: f'P01_01_{n},P01,P01_01,0,0:00:0{n}.0,0:00:0{n}.5,1,9,x,v,{verb},n,{noun},[],[]\n'
    make(tmp_path, {'EPIC_100_validation.csv': EPIC + line(0, 0, 0) + line(1, 96, 299), 'P01_01.mp4': None})
    assert whole(read_dataset('epic-kitchens-100', tmp_path), 2).label.tolist() == ['take tap', 'bend towel:kitchen'] or whole(read_dataset('epic-kitchens-100', tmp_path), 2).label.str.startswith('take tap').iloc[0]

def test_real_something_else(annotations):
    reading = read_dataset('something-else-5shot', annotations/'something_else', keep=True)
    assert len(whole(reading, 430)) == 430 and (reading.manifest.rows.label.value_counts() == 5).all() and len(reading.manifest.labels) == 86
    boxes = object_boxes(annotations/'something_else/annotations_sample_boxes.json')
    assert boxes.video.nunique() == 13 and {'hand'} < set(boxes.name) and (boxes.x2 > boxes.x1).all() and (boxes.y2 > boxes.y1).all() and boxes.frame.min() == 0

def test_real_jester(annotations):
    reading = read_dataset('jester', annotations/'jester', keep=True)
    assert len(whole(reading, 14787)) == 14787 and len(reading.manifest.labels) == 27 and flip_flags(reading.manifest.labels) == []

COUNTS = dict(diving48=48, gym99=99, hmdb51=51, jester=27, k400=400, multisports=66, ntu60=60, sthv1=174, sthv2=174, ucf101=101)
@pytest.mark.parametrize('name', COUNTS)
def test_real_label_maps(annotations, tmp_path, name):
    path, count = annotations/f'label_maps_mmaction2/{name}.txt', COUNTS[name]
    make(tmp_path, {'train_list.txt': ''.join(f'{n}.mp4 {n}\n' for n in range(count + 1)), **{f'{n}.mp4': None for n in range(count + 1)}})
    reading = read_dataset('mmaction2', tmp_path, classes=str(path))
    rows = whole(reading, count + 1)
    assert rows.label.nunique() == count and ('stand for two classes' in str(reading)) == (name == 'gym99') and reading.missing.reason.tolist() == [f'class {count} of {count} names'] and not rows.label.str.match(r'\d+:').any()

@pytest.mark.parametrize('name, rows, kept', [('video_test_list.txt', 2, 1), ('video_test_list_multi_label.txt', 2, 1), ('rawframe_test_list.txt', 2, 1), ('rawframe_test_list_multi_label.txt', 2, 1), ('rawframe_test_list_with_offset.txt', 2, 1), ('proposal_test_list.txt', 2, 2),
                                              ('action_test_anno.json', 2, 2), ('hvu_video_test_anno.json', 2, 1), ('video_text_test_list.json', 2, 2)])
def test_real_list_forms(annotations, name, rows, kept):
    reading = read_dataset('mmaction2', annotations/'list_formats_mmaction2', annotations=annotations/'list_formats_mmaction2'/name, keep=True)
    whole(reading, rows)
    assert (len(reading.manifest), (reading.manifest.rows.split == 'test').all()) == (kept, True)
