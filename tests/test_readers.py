"fgar.data.readers: each data set's layout in miniature, bad copies of it, folders of images, left and right, and the real label files where they are."
import json, os, re, sys, time
from pathlib import Path

import pandas as pd, pytest, torch, tyro
from PIL import Image

from fgar import cli
from fgar.cli import parse
from fgar.data.augment import flip_map
from fgar.data.datasets import COLUMNS, Manifest, VideoDataset
from fgar.data.readers import NO_SIDE, DataConfig, LabelError, Tree, encode, flip_flags, mirror_labels, next_commands, read_dataset, reader_name, readers, run_data
from fgar.data.video import probe, read_frames, write_video

def make(root, files):
    "Files by path: text, bytes, or None for something that stands for a video."
    for path, content in files.items():
        path = Path(root)/path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'video' if content is None else content if isinstance(content, bytes) else content.encode())
    return Path(root)

def whole(reading, annotated):
    "Nothing is lost: each annotated row is kept or listed."
    assert len(reading.manifest) + len(reading.missing) == annotated and (reading.missing.reason != '').all()
    return reading.manifest.rows

@pytest.fixture
def annotations(real): return real/'annotations'

# ---- each layout
UCF = {'UCF-101/Archery/v_Archery_g01_c01.avi': None, 'UCF-101/Archery/v_Archery_g02_c01.avi': None, 'UCF-101/Archery/v_Archery_g02_c02.avi': None, 'UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi': None,
       'UCF-101/HandstandPushups/v_HandStandPushups_g02_c01.avi': None, 'ucfTrainTestlist/classInd.txt': '1 Archery\r\n2 HandstandPushups\r\n',
       'ucfTrainTestlist/trainlist01.txt': 'Archery/v_Archery_g02_c01.avi 1\r\nArchery/v_Archery_g02_c02.avi 1\r\nHandstandPushups/v_HandstandPushups_g02_c01.avi 2\r\n',
       'ucfTrainTestlist/testlist01.txt': 'Archery/v_Archery_g01_c01.avi\r\nHandstandPushups/v_HandStandPushups_g01_c01.avi\r\n',
       'ucfTrainTestlist/trainlist02.txt': 'Archery/v_Archery_g01_c01.avi 1\n', 'ucfTrainTestlist/testlist02.txt': 'Archery/v_Archery_g02_c01.avi\n'}

def test_ucf101(tmp_path):
    reading = read_dataset('ucf101', make(tmp_path, UCF))
    rows = whole(reading, 5)
    assert rows.split.tolist() == ['train', 'train', 'train', 'test', 'test'] and rows.label.value_counts().to_dict() == {'Archery': 3, 'HandstandPushups': 2}
    assert rows.group.tolist() == ['Archery_g02', 'Archery_g02', 'HandstandPushups_g02', 'Archery_g01', 'HandstandPushups_g01'] and not reading.manifest.missing()
    assert 'groups: 4, none crosses splits' in str(reading)
    assert read_dataset('ucf101', tmp_path, split=2).manifest.rows.split.tolist() == ['train', 'test']
    with pytest.raises(ValueError, match='split: expected 1, 2 or 3, got 4'): read_dataset('ucf101', tmp_path, split=4)

def test_ucf101_torn_groups_and_class_numbers(tmp_path):
    make(tmp_path, {**UCF, 'ucfTrainTestlist/testlist01.txt': 'Archery/v_Archery_g02_c02.avi\nArchery/v_Archery_g01_c01.avi\n', 'ucfTrainTestlist/trainlist01.txt': 'Archery/v_Archery_g02_c01.avi 1\nHandstandPushups/v_HandStandPushups_g02_c01.avi 1\n'})
    reading = read_dataset('ucf101', tmp_path)
    whole(reading, 4)
    assert re.search('GROUPS CROSS SPLITS: 1 of 2 .*Archery_g02', str(reading)) and reading.missing.reason.tolist() == ['contradicts classInd.txt: class 1 is Archery']

def test_places_people_put_things(tmp_path):
    bare = {path: content.replace('Archery/', '').replace('HandstandPushups/', '').replace('v_Handstand', 'v_HandStand') if content else None for path,content in UCF.items() if 'classInd' not in path}
    assert set(read_dataset('ucf101', make(tmp_path/'bare', bare)).manifest.labels) == {'Archery', 'HandStandPushups'}                      # lists without folders
    flat = {f"a/b/{Path(path).name}": content for path,content in UCF.items()}                                  # no class folders at all
    assert len(read_dataset('ucf101', make(tmp_path/'flat', flat)).manifest) == 5
    lists = make(tmp_path/'lists', {Path(path).name: content for path,content in UCF.items() if path.endswith('.txt')})
    videos = make(tmp_path/'videos', {path: content for path,content in UCF.items() if path.endswith('.avi')})
    assert len(read_dataset('ucf101', videos, annotations=lists).manifest) == 5
    with pytest.raises(FileNotFoundError, match='--annotations'): read_dataset('ucf101', videos)
    converted = make(tmp_path/'converted', {path.replace('.avi', '.MP4'): content for path,content in UCF.items()})
    assert len(read_dataset('ucf101', converted).manifest) == 5

def test_hmdb51(tmp_path):
    odd = 'Hair__[_NEW_]_OK!!!!_brush_hair_h_cm_np1_fr_goo_0.avi'
    make(tmp_path, {f'hmdb51_org/brush_hair/{odd}': None, 'hmdb51_org/brush_hair/Film_brush_hair_u_nm_np1_ba_goo_1.avi': None, 'hmdb51_org/brush_hair/Film_brush_hair_u_nm_np1_ba_goo_2.avi': None, 'hmdb51_org/walk/Film_walk_f_cm_np1_fr_med_0.avi': None,
                    'testTrainMulti_7030_splits/brush_hair_test_split1.txt': f'{odd} 1 \nFilm_brush_hair_u_nm_np1_ba_goo_1.avi 2 \nFilm_brush_hair_u_nm_np1_ba_goo_2.avi 0 \n', 'testTrainMulti_7030_splits/walk_test_split1.txt': 'Film_walk_f_cm_np1_fr_med_0.avi 1 \n'})
    reading = read_dataset('HMDB-51', tmp_path)
    rows = whole(reading, 3)
    assert rows[['label', 'split', 'group']].values.tolist() == [['brush_hair', 'train', 'brush_hair/Hair__[_NEW_]_OK!!!!'], ['brush_hair', 'test', 'brush_hair/Film'], ['walk', 'train', 'walk/Film']]
    assert 'neither part of split 1: 1' in str(reading) and 'no label file names' not in str(reading)

def test_ucf11_is_dealt_by_whole_groups(tmp_path):
    make(tmp_path, {f'UCF11_updated_mpg/{c}/v_{stem}_{g:02}/v_{stem}_{g:02}_{i:02}.mpg': None for c,stem in (('basketball', 'shooting'), ('walking', 'walk_dog')) for g in range(1, 11) for i in (1, 2)})
    make(tmp_path, {'UCF11_updated_mpg/basketball/Annotation/v_shooting_01_01.xgtf': '<xml/>'})
    reading = read_dataset('ucf11', tmp_path)
    rows = whole(reading, 40)
    assert pd.crosstab(rows.label, rows.split).to_dict() == {'test': {'basketball': 6, 'walking': 6}, 'train': {'basketball': 14, 'walking': 14}}
    assert not reading.manifest.leaks() and rows.group.nunique() == 20 and 'dealt 7:3' in str(reading)
    one = read_dataset('ucf11', tmp_path, split=3).manifest.rows
    assert set(one.group[one.split == 'test']) == {'basketball/v_shooting_03', 'walking/v_walk_dog_03'}
    assert not (read_dataset('ucf11', tmp_path, seed=1).manifest.rows.split == rows.split).all()
    with pytest.raises(LabelError, match='split: expected 1 to 25'): read_dataset('ucf11', tmp_path, split=26)

def test_ucf_sports(tmp_path):
    make(tmp_path, {**{f'ucf action/{folder}/{n:03}/{reel}_{70*n}.avi': None for folder,reel in (('Golf-Swing-Back', '3283-8'), ('Golf-Swing-Front', 'RF1-13903'), ('Swing-SideAngle', '1-1'), ('Swing-Bench', '1-2')) for n in (1, 2, 3)},
                    'ucf action/Golf-Swing-Back/001/gt/a.txt': '1', 'ucf action/Diving-Side/009/a_1.jpg': b'j', 'ucf action/Diving-Side/009/a_2.jpg': b'j', 'ucf action/Walk-Front/004/gt/b.txt': '1', 'ucf action/Golf-Swing-Back/001/3283-8_70.jpg': b'j'})
    reading = read_dataset('ucf_sports', tmp_path)
    rows = whole(reading, 14)
    assert rows.label.value_counts().to_dict() == {'Golf-Swing': 6, 'Swing-SideAngle': 3, 'Swing-Bench': 3, 'Diving': 1}
    assert reading.folders == {'ucf action/Diving-Side/009'} and reading.missing.path.tolist() == ['ucf action/Walk-Front/004']
    assert not reading.manifest.leaks() and set(rows.group) == {'3283-8', 'RF1-13903', '1-1', '1-2', 'a'}

def test_ucf_sports_with_a_test_list(tmp_path):
    make(tmp_path, {**{f'ucf action/{folder}/{n:03}/{n}-1_70.avi': None for folder in ('Diving-Side', 'Golf-Swing-Back') for n in (1, 2, 3)}, 'testlist01.txt': 'Diving-Side/001\nucf action\\golf-swing-back\\2\nDiving-Side/099\n'})
    reading = read_dataset('ucf-sports', tmp_path)
    rows = whole(reading, 7)
    assert sorted(rows.path[rows.split == 'test']) == ['ucf action/Diving-Side/001/1-1_70.avi', 'ucf action/Golf-Swing-Back/002/2-1_70.avi'] and rows.split.value_counts()['train'] == 4
    assert reading.missing[['path', 'reason']].values.tolist() == [['diving-side/099', 'not found: only the test list names it']] and 'names 3 test clips' in str(reading) and 'dealt' not in str(reading)

SPORTS = {'Diving-Side': 14, 'Golf-Swing-Back': 5, 'Golf-Swing-Front': 8, 'Golf-Swing-Side': 5, 'Kicking-Front': 10, 'Kicking-Side': 10, 'Lifting': 6, 'Riding-Horse': 12, 'Run-Side': 13, 'SkateBoarding-Front': 12, 'Swing-Bench': 20, 'Swing-SideAngle': 13, 'Walk-Front': 22}
def test_ucf_sports_split_of_lan(tmp_path):
    make(tmp_path, {**{f'ucf action/{folder}/{n:03}/{folder}{n//5}-{70*n}.avi': None for folder,count in SPORTS.items() for n in range(1, count + 1)}, 'testlist.txt': 'Diving-Side/014\n'})
    rows = whole(read_dataset('ucf-sports', tmp_path, split=1), 150)                                     # the list that lies there is not asked
    counts = pd.crosstab(rows.label, rows.split)
    assert counts.sum().to_dict() == {'test': 47, 'train': 103} and (counts.test == counts.sum(axis=1)//3).all() and len(counts) == 10      # a third of each class, rounded down
    first = {label: paths.str.extract(r'/(\d+)/')[0].astype(int).max() for label,paths in rows.path[rows.split == 'test'].groupby(rows.path.str.split('/').str[1])}
    assert first == {'Diving-Side': 4, 'Golf-Swing-Back': 5, 'Golf-Swing-Front': 1, 'Kicking-Front': 6, 'Lifting': 2, 'Riding-Horse': 4, 'Run-Side': 4, 'SkateBoarding-Front': 4, 'Swing-Bench': 6, 'Swing-SideAngle': 4, 'Walk-Front': 7}
    assert set(rows.group[rows.label == 'Lifting']) == {'Lifting0', 'Lifting1'}                          # skateboarding and bench clips are called reel-frame, without an underscore
    (tmp_path/'ucf action/Lifting/002/Lifting0-140.avi').unlink()
    assert read_dataset('ucf-sports', tmp_path, split=1).missing.path.tolist() == ['lifting/002']
    with pytest.raises(LabelError, match='split: expected 1, .* got 2'): read_dataset('ucf-sports', tmp_path, split=2)

def test_kinetics(tmp_path):
    make(tmp_path, {'train/air drumming/abc-_123456_000010_000020.mp4': None, 'val/__whole12345.mkv': None, 'val.csv': 'label,youtube_id,time_start,time_end,split,is_cc\nzumba,__whole12345,1,11,validate,0\nzumba,gone4567890,1,11,validate,0\n',
                    'train.csv': '"label","youtube_id","time_start","time_end","split"\n"air drumming","abc-_123456",10,20,"train"\n', 'test.csv': 'youtube_id,time_start,time_end,split\nxyz,1,11,test\n', 'other.csv': 'a,b\n1,2\n'})
    reading = read_dataset('k400', tmp_path)
    rows = whole(reading, 4)
    assert rows[['label', 'split', 'group']].values.tolist() == [['air drumming', 'train', 'abc-_123456'], ['zumba', 'val', '__whole12345']]
    assert rows.start.isna().iloc[0] and rows[['start', 'end']].iloc[1].tolist() == [1, 11]
    assert dict(zip(reading.missing.path, reading.missing.reason)) == {'/xyz_000001_000011': 'no label given', 'zumba/gone4567890_000001_000011': 'not found'} and 'vanish' in str(reading)

def test_diving48(tmp_path):
    entries = lambda *names: json.dumps([dict(vid_name=n, label=k, start_frame=0, end_frame=9) for n,k in names])
    make(tmp_path, {**{f'rgb/{n}.mp4': None for n in ('-mmq_00155', '-mmq_00156', 'x_1_00001')}, 'Diving48_vocab.json': '[["Back", "15som", "05Twis", "FREE"], ["Inward", "Dive", "NoTwis", "PIKE"]]',
                    'Diving48_V2_train.json': entries(('-mmq_00155', 0), ('x_1_00001', 1)), 'Diving48_V2_test.json': entries(('-mmq_00156', 0)), 'Diving48_train.json': entries(('-mmq_00155', 1))})
    reading = read_dataset('diving48', tmp_path)
    rows = whole(reading, 3)
    assert rows.label.tolist() == ['Back+15som+05Twis+FREE', 'Inward+Dive+NoTwis+PIKE', 'Back+15som+05Twis+FREE'] and rows.split.tolist() == ['train', 'train', 'test']
    assert reading.manifest.leaks() == {'-mmq': ['test', 'train']} and 'GROUPS CROSS SPLITS' in str(reading)

MPII = '''8,s08-d02-cam-002,1,295,2,peel
8,s08-d02-cam-002,295,589,3,cut
21,s21-d01-cam-002,50,100,2,peel
10,s10-d05-cam-002,50,100,3,cut
10,s10-d05-cam-002,100,50,3,cut
10,s10-d05-cam-002,x,50,3,cut
'''
def test_mpii_cooking_leaves_one_person_out(tmp_path):
    make(tmp_path, {'detectionGroundtruth-1-0.csv': MPII.replace('10,s10-d05-cam-002,x,50,3,cut\n', ''), **{f'videos/{v}.avi': None for v in ('s08-d02-cam-002', 's21-d01-cam-002', 's10-d05-cam-002')}})
    for split, person in ((1, 's08'), (2, 's10')):
        reading = read_dataset('MPII Cooking', tmp_path, split=split, fps=29.5)
        rows = whole(reading, 5)
        assert set(rows.group[rows.split == 'test']) == {person} and not reading.manifest.leaks() and set(rows.group) == {'s08', 's10', 's21'}
    assert rows[['start', 'end']].iloc[0].tolist() == pytest.approx([0, 10]) and rows.start.iloc[1] == pytest.approx(294/29.5)
    assert reading.missing.reason.str.startswith('start is not before end').all() and 'never tested (s21), train' in str(reading)
    with pytest.raises(ValueError, match='split: expected 1 to 2.*s08, s10'): read_dataset('mpii', tmp_path, split=3)
    make(tmp_path, {'detectionGroundtruth-1-0.csv': MPII})
    with pytest.raises(LabelError, match='detectionGroundtruth-1-0.csv, line 6'): read_dataset('mpii', tmp_path)

def test_frame_numbers_use_the_rate_of_the_video(tmp_path):
    make(tmp_path, {'detectionGroundtruth-1-0.csv': '8,s08-d02-cam-002,11,20,2,peel\n10,s10-d02-cam-002,11,20,2,peel\n', 's10-d02-cam-002.avi': None})
    write_video(tmp_path/'s08-d02-cam-002.avi', torch.zeros(30, 16, 16, 3, dtype=torch.uint8), fps=10, codec='mpeg4', crf=None)
    reading = read_dataset('mpii', tmp_path)
    assert reading.manifest.rows[['start', 'end']].iloc[0].tolist() == pytest.approx([1, 2]) and 'assume 29.4' in str(reading)
    assert reading.manifest.rows.start.iloc[1] == pytest.approx(10/29.4)
    assert VideoDataset(reading.manifest, frames=10).indices(0).tolist() == list(range(10, 20))

CHARADES = {'Charades_v1_480/AAAAA.mp4': None, 'Charades_v1_480/BBBBB.mp4': None, 'charades_sta_train.txt': 'AAAAA 0.0 6.9##a person is putting a book on a shelf.\nAAAAA 0.0 6.9##person puts it away.\nAAAAA 0.0 6.9##person puts it away.\nAAAAA 8.0 7.0##backwards.\n',
            'charades_sta_test.txt': 'BBBBB 1.0 2.0##person, with a comma, sits.\nCCCCC 0 1##gone.\n'}
def test_charades_sta(tmp_path):
    reading = read_dataset('charades_sta', make(tmp_path, CHARADES))
    rows = whole(reading, 6)
    assert rows.label.tolist() == rows.sentence.tolist() and len(rows) == 4 and rows.split.tolist() == ['train']*3 + ['test'] and 'word for word, are all kept: 1' in str(reading)
    assert sorted(reading.missing.reason) == ['not found', 'start is not before end: 8, 7'] and rows.group.tolist() == ['AAAAA']*3 + ['BBBBB'] and rows.sentence.iloc[3] == 'person, with a comma, sits.'
    with pytest.raises(FileNotFoundError, match='Charades_v1_train.csv'): read_dataset('charades', tmp_path, label='action')
    make(tmp_path, {'Charades_v1_train.csv': 'id,subject,script,actions,length\nAAAAA,X,"a, b\nc",c080 0.00 6.90;c081 0.00 6.93;c001 1.00 2.00,30\n'})
    assert 'labels are the sentences' in str(read_dataset('charades', tmp_path))
    make(tmp_path, {'Charades_v1_test.csv': 'id,subject,script,actions,length\nBBBBB,X,,c001 0.00 2.00,30\nCCCCC,X,,,30\n', 'Charades_v1_classes.txt': 'c080 Putting a book\nc081 Tidying a shelf\n'})
    reading = read_dataset('charades', tmp_path)
    rows = whole(reading, 6)
    assert rows.label.tolist() == ['Putting a book']*3 and set(rows.actions) == {'Putting a book / Tidying a shelf'} and 'several actions' in str(reading)
    assert sorted(reading.missing.reason) == ['no Charades action has these times']*2 + ['start is not before end: 8, 7']
    assert len(read_dataset('charades', tmp_path, label='sentence').manifest) == 4

def test_activitynet_captions(tmp_path):
    story = lambda *spans: dict(duration=50., timestamps=[list(s) for s in spans], sentences=[f' Part {i}.' for i in range(len(spans))])
    make(tmp_path, {**{f'videos/v_{v}.mp4': None for v in 'abc'}, 'train.json': json.dumps({'v_a': story((0, 10), (5, 50)), 'v_gone': story((0, 1))}), 'val_1.json': json.dumps({'v_b': story((1, 2))}), 'val_2.json': json.dumps({'v_b': story((1, 3))}), 'train_ids.json': '["v_a"]'})
    reading = read_dataset('ActivityNet Captions', tmp_path)
    rows = whole(reading, 5)
    assert rows.split.tolist() == ['train', 'train', 'val', 'test'] and rows.sentence.iloc[0] == rows.label.iloc[0] == 'Part 0.' and rows.end.tolist() == [10, 50, 2, 3]
    assert 'same videos' in str(reading) and reading.manifest.leaks() == {'v_b': ['test', 'val']}
    make(tmp_path, {'activity_net.v1-3.min.json': json.dumps(dict(database={'a': dict(subset='training', annotations=[dict(segment=[0, 4], label='Ballet'), dict(segment=[4, 50], label='Judo')]), 'b': dict(subset='validation', annotations=[])}))})
    reading = read_dataset('anet', tmp_path)
    assert whole(reading, 5).label.tolist() == ['Judo', 'Judo'] and sorted(reading.missing.reason) == ['no class given for the video']*3 and len(reading.missing.sentence.dropna()) == 3

def test_tacos_counts_frames_and_keeps_persons_apart(tmp_path):
    make(tmp_path, {'s30-d52.avi': None, 's31-d01.avi': None, 'test.json': json.dumps({'s30-d52.avi': dict(timestamps=[[294, 588]], sentences=['He cuts.'], fps=29.4, num_frames=7346)}),
                    'val.json': json.dumps({'s31-d01.avi': dict(timestamps=[[0, 294]], sentences=['He peels.'], fps=29.4, num_frames=999)})})
    for name in ('tacos', 'mpii'):
        rows = whole(read_dataset(name, tmp_path), 2)
        assert rows[['start', 'end']].values.tolist() == [pytest.approx([10, 20]), pytest.approx([0, 10])] and rows.group.tolist() == ['s30', 's31'] and rows.split.tolist() == ['test', 'val']

@pytest.mark.parametrize('text', ['video,start,end,label,split,match\ngame1.mp4,1.5,3,chest pass,train,A\ngame 2,0:01:02.5,1:03,dunk,test,B\n', 'Video;Start;End;Label;Split;Match\r\ngame1.mp4;1,5;3;chest pass;train;A\r\ngame 2;0:01:02,5;1:03;dunk;test;B\r\n',
                                  '\ufefffile\tbegin\tstop\taction\tsubset\tgame\ngame1.mp4\t1.5\t3\tchest pass\ttrain\tA\ngame 2.mp4\t62.5\t63\tdunk\ttest\tB\n'])
def test_football_table(tmp_path, text):
    make(tmp_path, {'v/game1.mp4': None, 'v/game 2.mp4': None, 'labels.csv': text})
    rows = whole(read_dataset('csv', tmp_path), 2)
    assert rows[['path', 'label', 'split', 'start', 'end', 'group']].values.tolist() == [['v/game1.mp4', 'chest pass', 'train', 1.5, 3, 'A'], ['v/game 2.mp4', 'dunk', 'test', 62.5, 63, 'B']]

def test_football_folders_in_a_key_must_be_there(tmp_path):
    make(tmp_path, {'x/match1/1_720p.mkv': None, 'labels.csv': 'video,start,end,label\nmatch1/1_720p.mkv,1,2,pass\nmatch2/1_720p.mkv,1,2,shot\n'})     # each match has files of the same names
    reading = read_dataset('football', tmp_path)
    assert whole(reading, 2).label.tolist() == ['pass'] and reading.missing.path.tolist() == ['match2/1_720p.mkv']

def test_football_rows_that_cannot_be_used(tmp_path):
    make(tmp_path, {'a.mp4': None, 'labels.csv': 'video,start,end,label\na,1,2,dunk\na,soon,2,dunk\na,1,,dunk\na,4,3,dunk\na,5,6,\nb,1,2,dunk\na,,,whole\n'})
    reading = read_dataset('football', tmp_path)
    assert len(whole(reading, 7)) == 2 and set(reading.manifest.rows.group) == {'a'}
    assert reading.missing.reason.tolist() == ["not a time: 'soon' to '2' in line 3 of labels.csv", 'start or end is empty: line 4 of labels.csv', 'start is not before end: 4, 3', 'no label given: line 6 of labels.csv', 'not found']
    run_data(DataConfig('football', str(tmp_path), str(tmp_path/'manifest.csv')))
    assert len(whole(read_dataset('football', tmp_path), 7)) == 2                       # the manifest and the list of missing rows are not read as tables
    with pytest.raises(ValueError, match='columns video and label.*other.csv'): read_dataset('football', make(tmp_path/'b', {'other.csv': 'x,y\n1,2\n', 'a.mp4': None}))

# ---- Something-Something: forms, images, left and right
NAMES = ['Opening something', 'Pulling something from left to right', 'Pulling something from right to left', *NO_SIDE]
def test_something_v2_forms(tmp_path):
    entry = lambda video, name: dict(id=video, label='pulling cup', template=name.replace('something', '[something]', 1).replace('Something', '[Something]'), placeholders=['cup'])
    videos = {f'20bn-something-something-v2/{v}.webm': None for v in range(1, 6)}
    make(tmp_path/'a', {**videos, 'labels/train.json': json.dumps([entry('1', NAMES[0]), entry('2', NAMES[1])]), 'labels/validation.json': json.dumps([entry('3', NAMES[2]), entry('9', NAMES[0])]), 'labels/test.json': '[{"id": "5"}]', 'labels/labels.json': json.dumps({n: str(i) for i,n in enumerate(NAMES)})})
    rows = whole(read_dataset('something-something-v2', tmp_path/'a'), 4)
    assert rows.label.tolist() == NAMES[:3] and rows.split.tolist() == ['train', 'train', 'val'] and rows.path.str.endswith('.webm').all()
    assert 'test.json gives no labels; videos left out: 1' in str(read_dataset('sthv2', tmp_path/'a'))
    make(tmp_path/'b', {**videos, 'val_videofolder.txt': '/Data Sets/SSV2/1 46 3\n2 46 0\n', 'category.txt': '\n'.join(NAMES)})
    assert whole(read_dataset('sthv2', tmp_path/'b'), 2).label.tolist() == [NAMES[3], NAMES[0]]

@pytest.fixture
def frames(tmp_path):
    "Something-Something V1 with three folders of images; image n of video 7 has grey level 20·n."
    make(tmp_path, {'something-something-v1-labels.csv': '\n'.join(NAMES), 'something-something-v1-train.csv': f'7;{NAMES[1]}\n8;{NAMES[2]}\n', 'something-something-v1-validation.csv': f'10;{NAMES[0]}\n', 'something-something-v1-test.csv': '11\n'})
    for video, count, size in ((7, 12, (32, 48)), (8, 3, (33, 47)), (10, 3, (32, 48)), (11, 2, (32, 48))):
        for n in range(1, count + 1):
            (tmp_path/f'20bn-something-something-v1/{video}').mkdir(parents=True, exist_ok=True)
            Image.new('L', size[::-1], 20*n).save(tmp_path/f'20bn-something-something-v1/{video}/{n}.jpg')     # 10.jpg sorts before 2.jpg as text
    return tmp_path

def test_folders_of_images_become_videos_once(frames):
    reading = read_dataset('sthv1', frames)
    assert len(reading.folders) == 3 and whole(reading, 3).split.tolist() == ['train', 'train', 'val']
    videos = encode(reading, frames/'videos', progress=False)
    path = videos.manifest.path(0)
    info = probe(path)
    assert (info.frames, info.fps, info.width, info.height) == (12, 12, 48, 32) and len(whole(videos, 3)) == 3 and not videos.folders and not videos.manifest.missing()
    assert (read_frames(path).float().mean((1, 2, 3)) - 20*torch.arange(1, 13)).abs().max() < 3
    assert (probe(videos.manifest.path(1)).width, probe(videos.manifest.path(1)).height) == (47, 33)
    before = {p: p.stat().st_mtime_ns for p in (frames/'videos').rglob('*.mp4')}
    videos.manifest.path(1).unlink()                                             # as if the first run had been stopped
    assert len(encode(reading, frames/'videos', progress=False).manifest) == 3
    assert {p: p.stat().st_mtime_ns for p in before if '8.mp4' not in p.name} == {p: t for p,t in before.items() if '8.mp4' not in p.name} and videos.manifest.path(1).is_file()
    Image.new('RGB', (48, 32)).save(frames/'20bn-something-something-v1/10/4.jpg')
    os.utime(frames/'20bn-something-something-v1/10', (2e9, 2e9))
    assert probe(encode(reading, frames/'videos', progress=False).manifest.path(2)).frames == 4

def test_stopping_does_not_wait_for_the_rest(frames, monkeypatch):
    begun = []
    def stopped(folder, target, fps):
        begun.append(folder)
        if len(begun) == 1: raise KeyboardInterrupt
        time.sleep(.02); return ''
    monkeypatch.setattr('fgar.data.readers._encode', stopped)
    make(frames, {'something-something-v1-train.csv': ''.join(f'{v};{NAMES[0]}\n' for v in range(100, 600)), **{f'x/{v}/1.jpg': b'' for v in range(100, 600)}})
    with pytest.raises(KeyboardInterrupt): encode(read_dataset('sthv1', frames), frames/'videos', workers=1, progress=False)
    assert 1 <= len(begun) < 400

def test_bad_folders_of_images_are_listed(frames):
    folder = frames/'20bn-something-something-v1'
    (folder/'7/5.jpg').unlink()
    (folder/'8/2.jpg').write_bytes((folder/'8/2.jpg').read_bytes()[:150])
    videos = encode(read_dataset('sthv1', frames, skip=frames/'videos'), frames/'videos', progress=False)
    assert whole(videos, 3).path.tolist() == ['videos/20bn-something-something-v1/10.mp4'] and videos.missing.reason.iloc[0] == 'images missing: 5' and videos.missing.reason.iloc[1].startswith('cannot be encoded')
    assert [p.name for p in (frames/'videos').rglob('*') if p.is_file()] == ['10.mp4']
    (folder/'10/1.jpg').write_bytes(b''); os.utime(folder/'10', (2e9, 2e9))
    with pytest.raises(ValueError, match='none of the 3 folders'): encode(read_dataset('sthv1', frames, skip=frames/'videos'), frames/'videos', progress=False)

def test_lists_that_count_images_find_half_folders(frames):
    make(frames/'lists', {'train_videofolder.txt': '7 12 1\n8 46 2\n', 'category.txt': '\n'.join(NAMES)})
    reading = read_dataset('sthv1', frames, annotations=frames/'lists')
    assert len(whole(reading, 2)) == 1 and reading.missing.reason.tolist() == ['images missing: 3 of 46 are there']

def test_left_and_right():
    pairs, alone = mirror_labels(NAMES)
    assert pairs == [('Pulling something from left to right', 'Pulling something from right to left')] and not alone
    assert flip_flags(NAMES) == [] and flip_map(NAMES).tolist() == [0, 2, 1, 3]
    assert flip_flags(['Turning Hand Clockwise', 'Turning Hand Counterclockwise', 'Thumb Up']) == [] == flip_flags(['a', 'b'])
    assert flip_flags(['Turning left', 'Opening']) == ['--no-flip'] and mirror_labels(['Turning left', 'Opening'])[1] == ['Turning left']
    assert not parse('train', flip_flags(['Turning left'])).flip and mirror_labels(NO_SIDE) == ([], []) and flip_map(list(NO_SIDE)).tolist() == [0]
    with pytest.raises(ValueError, match=r'same=\[…\]; otherwise flip=False'): flip_map(['pulling it right out of something'])      # only the known name is known

# ---- the command
def test_command_writes_a_manifest_that_can_be_read(tmp_path, capsys):
    make(tmp_path/'data', {**UCF, 'UCF-101/Archery/v_Archery_g02_c02.avi': b''})
    clip = write_video(tmp_path/'clip.avi', torch.zeros(6, 32, 32, 3, dtype=torch.uint8), fps=6, codec='mpeg4', crf=None).read_bytes()
    for path in (tmp_path/'data').rglob('*.avi'): path.write_bytes(clip if path.stat().st_size else b'')
    for out in (tmp_path/'a/b/m.csv', tmp_path/'data/m.csv', tmp_path/'m.csv'):
        assert run_data(DataConfig('ucf101', str(tmp_path/'data'), str(out))) == 0
        manifest = Manifest.read(out, check_files=True)
        assert tuple(manifest.rows.columns) == COLUMNS and len(manifest) == 4 and not manifest.leaks() and not any(map(os.path.isabs, manifest.rows.path))
        assert VideoDataset(manifest, frames=2)[0]['frames'].shape == (2, 32, 32, 3)
        left = pd.read_csv(out.with_name('m_missing.csv'))
        assert left[['path', 'split', 'reason']].values.tolist() == [['Archery/v_Archery_g02_c02.avi', 'train', 'empty file: UCF-101/Archery/v_Archery_g02_c02.avi']]
    said = capsys.readouterr().out
    assert 'Archery' in said and f'fgar train --data {out} --val-split test' in said and 'left out, empty file: 1' in said
    (tmp_path/'data/UCF-101/Archery/v_Archery_g02_c02.avi').write_bytes(clip)
    run_data(DataConfig('ucf101', str(tmp_path/'data'), str(out)))
    assert len(pd.read_csv(out.with_name('m_missing.csv'))) == 0                       # no stale list

def test_paths_hold_through_links(tmp_path):
    make(tmp_path/'disk/deep/data', UCF); (tmp_path/'disk/deep/lists').mkdir()
    (tmp_path/'data').symlink_to(tmp_path/'disk/deep/data'); (tmp_path/'lists').symlink_to(tmp_path/'disk/deep/lists')
    run_data(DataConfig('ucf101', str(tmp_path/'data'), str(tmp_path/'lists/m.csv')))
    assert len(Manifest.read(tmp_path/'lists/m.csv', check_files=True)) == 5

def test_command_encodes_frames_and_says_how_to_flip(frames, capsys):
    assert run_data(DataConfig('ssv1', str(frames), str(frames/'out/m.csv'), quiet=True)) == 0
    manifest = Manifest.read(frames/'out/m.csv', check_files=True)
    assert manifest.rows.path.str.startswith('m_videos/').all() and VideoDataset(manifest, frames=3)[0]['frames'].shape == (3, 32, 48, 3)
    assert 'fgar train --data' in capsys.readouterr().out and flip_map(manifest.labels).tolist() == [0, 2, 1]

def test_fgar_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, 'data', ('fgar.data.readers:DataConfig', run_data, 'read a data set'))
    if hasattr(cli, 'POSITIONAL'): monkeypatch.setitem(cli.POSITIONAL, 'data', ('name',))
    else: pytest.skip('fgar.cli takes no positional name yet')
    make(tmp_path/'data', UCF)
    assert cli.main(['data', 'ucf101', '--root', str(tmp_path/'data'), '--out', str(tmp_path/'m.csv'), '--split', '2']) == 0 and Manifest.read(tmp_path/'m.csv').rows.split.tolist() == ['train', 'test']
    assert cli.main(['data', 'hmdb51', '--root', str(tmp_path/'data'), '--out', str(tmp_path/'x.csv')]) == 1 and not (tmp_path/'x.csv').exists()
    assert 'expected the label files of hmdb51' in capsys.readouterr().err
    assert cli.main(['data', 'ucf110', '--root', str(tmp_path/'data')]) == 1
    assert "Did you mean 'ucf11" in capsys.readouterr().err

def test_sentences_come_back_from_the_manifest(tmp_path):
    run_data(DataConfig('charades', str(make(tmp_path, CHARADES)), str(tmp_path/'m.csv')))
    with pytest.warns(UserWarning, match='file and span'): rows = Manifest.read(tmp_path/'m.csv').rows
    assert rows.sentence.tolist() == rows.label.tolist() == ['a person is putting a book on a shelf.', 'person puts it away.', 'person puts it away.', 'person, with a comma, sits.'] and rows.end.tolist() == [6.9]*3 + [2]

def test_flags_are_made_from_the_config():
    config = tyro.cli(DataConfig, args=['--name', 'mpii', '--root', 'x', '--split', '3', '--fractions', '2', '1', '1', '--label', 'sentence', '--fps', '30'])
    assert (config.split, config.fractions, config.label, config.fps, config.out) == (3, (2., 1., 1.), 'sentence', 30., 'manifest.csv')

def test_fractions_keep_groups(tmp_path):
    make(tmp_path, CHARADES)
    reading = read_dataset('charades', tmp_path, fractions=(2, 1, 1))
    assert set(reading.manifest.rows.split) <= {'train', 'val', 'test'} and not reading.manifest.leaks() and "set's own split was not used" in str(reading)
    for bad in ((1,), (1, 0), (1, 1, 1, 1)):
        with pytest.raises(ValueError, match='fractions'): read_dataset('charades', tmp_path, fractions=bad)

def test_next_commands_without_training_rows(tmp_path):
    reading = read_dataset('kinetics', make(tmp_path, {'a_000001_000011.mp4': None, 'val.csv': 'label,youtube_id,time_start,time_end,split\nzumba,a,1,11,val\n'}))
    assert 'no training rows' in next_commands(reading, 'm.csv')[1]
    reading = read_dataset('football', make(tmp_path/'b', {'a.mp4': None, 'b.mp4': None, 'l.csv': 'video,label,split\na,run,train\nb,run,dev\n'}))
    assert next_commands(reading, 'm.csv')[1] == 'fgar train --data m.csv --val-split dev'
    reading = read_dataset('football', make(tmp_path/'c', {'a.mp4': None, 'l.csv': 'video,label,split\na,run,train\n'}))
    assert 'no validation rows' in next_commands(reading, 'm.csv')[1]

def test_options_a_set_does_not_have_are_errors(tmp_path):
    for name, options in (('kinetics', dict(split=2)), ('ucf101', dict(label='action')), ('diving48', dict(split=1))):
        with pytest.raises(ValueError, match='no such choice'): read_dataset(name, make(tmp_path, UCF), **options)
    with pytest.raises(KeyError, match='hmdb51'): read_dataset('hmdb15', tmp_path)

@pytest.mark.parametrize('name, known', [('UCF101', 'ucf101'), ('ucf_sports', 'ucf-sports'), ('UCF Sports', 'ucf-sports'), ('SSv1', 'sthv1'), ('something_something_v2', 'sthv2'), ('Kinetics-400', 'kinetics400'), ('Charades_STA', 'charades-sta'), ('csv', 'football'), ('mpii', 'mpii-cooking')])
def test_names_people_use(name, known): assert reader_name(name) == known

# ---- bad input
def test_wrong_roots(tmp_path):
    with pytest.raises(FileNotFoundError, match="root: .*'.*nowhere', which is not there"): read_dataset('ucf101', tmp_path/'nowhere')
    make(tmp_path, {'file.txt': 'x'})
    with pytest.raises(FileNotFoundError, match='which is a file'): read_dataset('ucf101', tmp_path/'file.txt')
    with pytest.raises(FileNotFoundError, match='annotations: .*not there'): read_dataset('ucf101', tmp_path, annotations=tmp_path/'nowhere')

@pytest.mark.parametrize('name', readers())
def test_every_reader_says_what_it_looked_for(tmp_path, name):
    root = make(tmp_path/name, {'UCF101.rar': 'r', 'somewhere/x.mp4': None})
    with pytest.raises(FileNotFoundError) as e: read_dataset(name, root)
    assert name in str(e.value) and str(root) in str(e.value) and '1 videos' in str(e.value) and 'Not unpacked yet: UCF101.rar' in str(e.value) and readers()[name].layout in str(e.value)

@pytest.mark.parametrize('name', readers())
def test_command_fails_before_it_writes(tmp_path, name):
    with pytest.raises(FileNotFoundError): run_data(DataConfig(name, str(make(tmp_path/'data', {'x.mp4': None})), str(tmp_path/'m.csv')))
    assert not list(tmp_path.glob('*.csv'))

def test_half_extracted(tmp_path):
    files = {path: content for path,content in UCF.items() if path.endswith('.txt')}
    with pytest.raises(FileNotFoundError, match='none of the 5 rows of ucf101 can be used .5 not found.*0 videos.*UCF101.rar'): read_dataset('ucf101', make(tmp_path/'a', {**files, 'UCF101.rar': 'r'}))
    half = make(tmp_path/'b', {path: content for path,content in UCF.items() if 'UCF-101/Arch' in path or path.endswith('.txt')})
    reading = read_dataset('ucf101', half)
    assert len(whole(reading, 5)) == 3 and 'labels without a usable row, so not in the manifest: 1 (HandstandPushups)' in str(reading)
    kept = read_dataset('ucf101', half, keep=True)
    assert len(whole(kept, 5)) == 5 and len(kept.manifest.missing()) == 2 and 'kept without a file: 2' in str(kept)

def test_duplicates_and_contradictions(tmp_path):
    make(tmp_path, {**UCF, 'ucfTrainTestlist/trainlist01.txt': 'Archery/v_Archery_g02_c01.avi 1\nArchery/v_Archery_g02_c01.avi 1\n', 'ucfTrainTestlist/testlist01.txt': 'Archery/v_Archery_g02_c01.avi\nArchery/v_Archery_g01_c01.avi\n'})
    reading = read_dataset('ucf101', tmp_path)
    assert len(whole(reading, 4)) == 2 and reading.missing.reason.tolist() == ['named twice', "contradicts an earlier row: that says 'Archery' in train"]
    assert not len(reading.manifest.duplicates())

def test_same_name_in_several_places(tmp_path):
    make(tmp_path, {**UCF, 'copy/Archery/v_Archery_g01_c01.avi': None, 'extra/v_Archery_g09_c01.avi': None})
    reading = read_dataset('ucf101', tmp_path)
    assert len(whole(reading, 5)) == 5 and 'of which the first was taken: 1 (' in str(reading) and 'videos that no label file names: 1 (extra/v_Archery_g09_c01.avi)' in str(reading)

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])
def test_text_of_any_system(tmp_path, encoding):
    make(tmp_path, {'a.mp4': None, 'été.mp4': None, 'labels.csv': 'video,label\na,sauté\nété,saut\n'.encode(encoding)})
    reading = read_dataset('football', tmp_path)
    assert whole(reading, 2).label.tolist() == ['sauté', 'saut'] and ('Latin-1' in str(reading)) == (encoding == 'latin-1')

def test_accents_in_two_forms(tmp_path):
    make(tmp_path, {'e\u0301te\u0301.mp4': None, 'labels.csv': 'video,label\n\xe9t\xe9,saut\n'})
    assert len(read_dataset('football', tmp_path).manifest) == 1

@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have no such names')
def test_file_names_that_are_not_utf8(tmp_path):
    make(tmp_path, {'a.mp4': None, 'labels.csv': 'video,label\na,run\ncaf\xe9,run\n'})
    Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.mp4')).write_bytes(b'video')
    reading = read_dataset('football', tmp_path)
    assert len(whole(reading, 2)) == 1 and 'names that are not UTF-8' in str(reading)
    str(reading).encode()
    run_data(DataConfig('football', str(tmp_path), str(tmp_path/'m.csv')))

def test_links(tmp_path):
    make(tmp_path/'data', UCF)
    (tmp_path/'data/UCF-101/Archery/up').symlink_to(tmp_path/'data')
    (tmp_path/'data/self').symlink_to('self')
    (tmp_path/'data/UCF-101/Archery/v_Archery_g01_c01.avi').unlink()
    (tmp_path/'data/UCF-101/Archery/v_Archery_g01_c01.avi').symlink_to(tmp_path/'gone.avi')
    (tmp_path/'data/UCF-101/Archery/v_Archery_g02_c01.avi').rename(tmp_path/'elsewhere.avi')
    (tmp_path/'data/UCF-101/Archery/v_Archery_g02_c01.avi').symlink_to(tmp_path/'elsewhere.avi')
    reading = read_dataset('ucf101', tmp_path/'data')
    assert len(whole(reading, 5)) == 4 and reading.missing.reason.tolist() == ['a link that leads nowhere: UCF-101/Archery/v_Archery_g01_c01.avi'] and 'seen already' in str(reading)
    (tmp_path/'linked').mkdir(); (tmp_path/'linked/UCF').symlink_to(tmp_path/'data')
    assert len(read_dataset('ucf101', tmp_path/'linked').manifest) == 4

@pytest.mark.parametrize('name, file, text, match', [
    ('sthv2', 'train.json', '[{"id": "1", "templ', 'train.json: expected JSON.*Download it again'), ('sthv2', 'train.json', '[{"video": "1"}]', "train.json: expected the layout of sthv2.*KeyError: 'id'"), ('sthv2', 'train.json', '{"a": 1}', 'train.json: expected the layout'),
    ('charades-sta', 'charades_sta_train.txt', 'A 0 1##ok.\nA one two##x.\n', 'charades_sta_train.txt, line 2'), ('charades-sta', 'charades_sta_train.txt', 'A 0##x.\n', 'line 1'),
    ('kinetics400', 'val.csv', 'label,youtube_id,time_start,time_end,split\na,A,1,11,val\na,A,x,11,val\n', 'val.csv, line 3'), ('diving48', 'Diving48_V2_train.json', '[{"vid_name": "A", "label": "x"}]', 'Diving48_V2_train.json'),
    ('tacos', 'val.json', '{"A": {"timestamps": [[1]], "sentences": ["x"]}}', 'val.json'), ('sthv1', 'something-something-v1-train.csv', '', None), ('ucf101', 'trainlist01.txt', '\n', None)])
def test_label_files_that_are_not_what_they_should_be(tmp_path, name, file, text, match):
    make(tmp_path, {file: text, 'A.mp4': None, 'testlist01.txt': ''})
    with pytest.raises(LabelError if match else FileNotFoundError, match=match or name): read_dataset(name, tmp_path)

def test_output_that_cannot_be_written(tmp_path):
    make(tmp_path/'data', UCF)
    make(tmp_path, {'file': 'x', 'notes.csv': 'my,own,table\n', 'folder.csv/x': ''})
    for out, match in (('file/m.csv', 'cannot write here'), ('notes.csv', 'no manifest; it would be lost'), ('folder.csv', 'name of a CSV'), ('m.txt', 'name of a CSV'), ('data/ucfTrainTestlist/trainlist01.txt', 'name of a CSV')):
        with pytest.raises((ValueError, OSError), match=match): run_data(DataConfig('ucf101', str(tmp_path/'data'), str(tmp_path/out)))
    assert (tmp_path/'notes.csv').read_text() == 'my,own,table\n'

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write anywhere')
def test_read_only_output(tmp_path):
    make(tmp_path/'data', UCF); (tmp_path/'closed').mkdir(mode=0o500)
    with pytest.raises(OSError, match='cannot write here'): run_data(DataConfig('ucf101', str(tmp_path/'data'), str(tmp_path/'closed/m.csv')))

@pytest.mark.parametrize('number', [13, 30])      # permission denied, read-only file system
def test_read_only_output_whoever_runs_it(tmp_path, monkeypatch, number):
    make(tmp_path/'data', UCF)
    def refuse(*_, **__): raise OSError(number, os.strerror(number))
    monkeypatch.setattr('tempfile.TemporaryFile', refuse)
    with pytest.raises(OSError, match='out: cannot write here') as e: run_data(DataConfig('ucf101', str(tmp_path/'data'), str(tmp_path/'m.csv')))
    assert e.value.errno == number and os.strerror(number) in str(e.value) and not (tmp_path/'m.csv').exists()

def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make(tmp_path, UCF)
    scandir = os.scandir
    def closed(path):
        if 'Hand' in str(path): raise PermissionError(13, 'Permission denied')
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', closed)
    reading = read_dataset('ucf101', tmp_path)
    assert len(whole(reading, 5)) == 3 and 'cannot be read: UCF-101/HandstandPushups/ (Permission denied)' in str(reading)

def test_many_images_are_counted_not_kept(tmp_path):
    make(tmp_path, {f'frames/7/{n:05}.jpg': b'' for n in range(200)})
    tree = Tree(tmp_path)
    assert tree.images == {'frames/7': 200} and not tree.files and tree.find('7') == ('frames/7', '')

# ---- the real label files
def test_real_ucf101(annotations):
    for split, sizes, tested in ((1, (9537, 3783), range(1, 8)), (2, (9586, 3734), range(8, 15)), (3, (9624, 3696), range(15, 22))):
        reading = read_dataset('ucf101', annotations/'ucf101', keep=True, split=split)
        rows = whole(reading, 13320)
        assert tuple(rows.split.value_counts()[['train', 'test']]) == sizes and len(reading.manifest.labels) == 101 and not reading.manifest.leaks() and rows.group.nunique() == 2525
        assert {int(g[-2:]) for g in rows.group[rows.split == 'test']} == set(tested) and not len(reading.missing)

def test_real_hmdb51(annotations):
    reading = read_dataset('hmdb51', annotations/'hmdb51', keep=True)
    rows = whole(reading, 5100)
    assert (pd.crosstab(rows.label, rows.split)[['test', 'train']] == [30, 70]).all().all() and len(reading.manifest.labels) == 51 and (rows.group != '').all() and not reading.manifest.leaks()
    names = [(line.split()[0], path.name.rpartition('_test_split')[0], line.split()[1]) for path in (annotations/'hmdb51').glob('*_split1.txt') for line in path.read_text().splitlines()]
    films = pd.DataFrame([(re.match(rf'(.+)_{label}_[a-z]+_[a-z]+_np', name)[1], use) for name,label,use in names], columns=['film', 'use'])
    assert films.film.nunique() == 1407 and films.groupby('film').use.agg(lambda used: {'1', '2'} <= set(used)).sum() == 133      # as the chapter's exercise says

def test_real_something(annotations):
    for name, folder, rows in (('sthv1', 'something_v1', 11522), ('sthv2', 'something_v2', 24777)):
        reading = read_dataset(name, annotations/folder, keep=True)
        assert len(whole(reading, rows)) == rows and len(reading.manifest.labels) == 174 and set(reading.manifest.rows.split) == {'val'}
        pairs, alone = mirror_labels(reading.manifest.labels)
        assert pairs == [(f'{verb} something from left to right', f'{verb} something from right to left') for verb in ('Pulling', 'Pushing')] + [('Turning the camera left while filming something', 'Turning the camera right while filming something')] and not alone
        sided = [name for name in reading.manifest.labels if re.search(r'\b(left|right)\b', name)]
        assert set(sided) == {name for pair in pairs for name in pair} | set(NO_SIDE)
        mirror = flip_map(reading.manifest.labels)                                # no help needed
        assert torch.equal(mirror[mirror], torch.arange(174)) and (mirror != torch.arange(174)).sum() == 6
        assert flip_flags(reading.manifest.labels) == [] and {(reading.manifest.labels[i], reading.manifest.labels[k]) for i,k in enumerate(mirror.tolist()) if i < k} == set(pairs)

def test_real_kinetics(annotations):
    reading = read_dataset('kinetics400', annotations/'kinetics', keep=True)
    assert len(whole(reading, 19906)) == 19906 and len(reading.manifest.labels) == 400 and flip_flags(reading.manifest.labels) == []

def test_real_charades(annotations):
    reading = read_dataset('charades-sta', annotations/'charades_sta', keep=True)
    rows = whole(reading, 12408 + 3720)
    assert tuple(rows.split.value_counts()[['train', 'test']]) == (12404, 3720) and not reading.manifest.leaks() and rows.label.equals(rows.sentence) and (reading.missing.reason.str.startswith('start is not before end')).all()
    acted = whole(read_dataset('charades-sta', annotations/'charades_sta', keep=True, label='action'), 16128)
    assert len(acted) == 3720 and acted.label.str.fullmatch('c[0-9]{3}').all()            # each test segment has an action with its times; the training table is not there

def test_real_tacos(annotations):
    rows = whole(read_dataset('mpii-cooking', annotations/'tacos_mpii_cooking', keep=True), 4436 + 4001)
    assert len(rows) == 8437 and rows.path.nunique() == 52 and (rows.end > rows.start).all() and rows.end.max() < 3600 and rows.group.str.fullmatch(r's\d+').all()
