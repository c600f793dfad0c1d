"Cases of fgar.data.video that would clutter its chapter: codecs, containers, odd and broken files."
import gc, io, json, os, pickle, random, time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from fgar.data import video
from fgar.data.video import FrameError, VideoError, VideoNotFound, _METADATA, check_videos, frame_numbers, frame_times, frame_types, iter_frames, motion_vectors, packet_table, probe, read_frames, write_video

REAL = Path(os.environ.get('FGAR_REAL', Path(__file__).parents[1]/'../shared/real'))/'formats'
COUNT, HEIGHT, WIDTH = 40, 48, 64

def scene(count=COUNT, height=HEIGHT, width=WIDTH):
    "Smooth, moving, and different in every frame."
    t, y, x = torch.meshgrid(torch.arange(count), torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack([128+100*torch.sin(x/9+t/3), 128+100*torch.cos(y/7-t/5), 60+3*t+0*x], -1).byte()

FILES = {   # name: options of write_video
    'h264.mp4': dict(gop=12), 'open_gop.mp4': dict(gop=10, options={'x264-params': 'open-gop=1:bframes=3:b-adapt=0:scenecut=0'}), 'h264.mkv': dict(gop=12), 'one_key.mp4': dict(gop=1000),
    'intra.mp4': dict(gop=1), 'h264.avi': dict(gop=12), 'deep.mp4': dict(gop=12, pix_fmt='yuv420p10le'), 'full_colour.mp4': dict(gop=12, pix_fmt='yuv444p'),
    'hevc.mp4': dict(codec='libx265', gop=12, options={'x265-params': 'log-level=none'}), 'vp9.webm': dict(codec='libvpx-vp9', gop=12, options={'cpu-used': '8', 'deadline': 'realtime'}),
    'vp8.webm': dict(codec='libvpx', gop=12, options={'b': '300k'}), 'mpeg4.avi': dict(codec='mpeg4', gop=12, options={'b': '2M'}),
    'mpeg4_b.avi': dict(codec='mpeg4', gop=12, options={'b': '2M', 'bf': '2'}), 'mpeg4_b.mp4': dict(codec='mpeg4', gop=12, options={'b': '2M', 'bf': '2'}), 'mpeg2.mkv': dict(codec='mpeg2video', gop=12, options={'b': '2M'})}
MADE = [*FILES, 'stream.ts', 'cut.mp4', 'late.mkv', 'no_key_first.mkv', 'hidden.webm']

def remux(source, target, shift=0, keep=lambda i: True):
    "Copy packets, `shift` frames earlier."
    with av.open(str(source)) as a, av.open(str(target), 'w') as b:
        stream = a.streams.video[0]; copy = b.add_stream_from_template(stream)
        for i, packet in enumerate(a.demux(stream)):
            if packet.dts is None or not keep(i): continue
            packet.pts, packet.dts = (t - round(Fraction(shift, 25)/stream.time_base) for t in (packet.pts, packet.dts))
            packet.stream = copy; b.mux(packet)
    return target

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('video')
    for name, options in FILES.items(): write_video(folder/name, scene(), **options)
    remux(folder/'h264.mp4', folder/'stream.ts')
    remux(folder/'h264.mp4', folder/'cut.mp4', shift=5)
    remux(folder/'h264.mp4', folder/'late.mkv', shift=-50)
    with av.open(str(folder/'vp8.webm')) as a, av.open(str(folder/'hidden.webm'), 'w') as b:      # one frame marked 'reference only', as encoders do with alternate references
        copy = b.add_stream_from_template(a.streams.video[0])
        for i, packet in enumerate(a.demux(video=0)):
            if packet.dts is None: continue
            body = bytearray(bytes(packet)); body[0] &= 255-16*(i == 5)
            new = av.Packet(bytes(body)); new.pts, new.dts, new.time_base, new.is_keyframe, new.stream = packet.pts, packet.dts, packet.time_base, packet.is_keyframe, copy; b.mux(new)
    remux(folder/'h264.mp4', folder/'no_key_first.mkv', keep=lambda i: i > 4)
    return folder

def reference(path):
    "Everything, from the start, by nothing but PyAV."
    with av.open(str(path), **_METADATA) as container:
        container.streams.video[0].thread_type = 'NONE'
        return torch.from_numpy(np.stack([f.to_ndarray(format='rgb24') for f in container.decode(video=0)]))

@pytest.mark.parametrize('name', MADE)
def test_every_index_is_exact(folder, name):
    path, truth = folder/name, reference(folder/name)
    info = probe(path)
    assert info.frames == len(truth) and (info.height, info.width) == (HEIGHT, WIDTH) and abs(info.fps-25) < .3
    assert torch.equal(read_frames(path), truth)
    chance = random.Random(name)
    for size in (1, 2, 5, 20):
        picks = [chance.randrange(len(truth)) for _ in range(size)]
        assert torch.equal(read_frames(path, picks), truth[picks]), picks
    for n in range(len(truth)): assert torch.equal(read_frames(path, [n])[0], truth[n]), n

@pytest.mark.parametrize('name', FILES)
def test_what_is_written_is_read(folder, name):
    read = read_frames(folder/name)
    assert len(read) == COUNT
    assert (read.float()-scene().float()).abs().mean() < (12 if name.startswith('vp') else 5)

def test_counts_that_headers_get_wrong(folder):
    with av.open(str(folder/'cut.mp4')) as c: assert c.streams.video[0].frames == COUNT
    assert probe(folder/'cut.mp4').frames == COUNT-5
    assert probe(folder/'hidden.webm').frames == COUNT-1 == len(reference(folder/'hidden.webm'))

def test_seeks_decode_less(folder):
    runs = lambda *numbers: video._runs(video._index(folder/'h264.mp4'), np.array(numbers))
    assert sum(b-a+1 for a, b in runs(39)) < 14
    assert len(runs(13, 14, 15)) == 1 and runs(13, 14, 15)[0][0] >= 12
    assert len(runs(0, 39)) == 2

@pytest.mark.parametrize('threads', [0, 1, 2])
def test_threads_change_nothing(folder, threads): assert torch.equal(read_frames(folder/'h264.mp4', [30, 7, 7], threads=threads), read_frames(folder/'h264.mp4')[[30, 7, 7]])

@pytest.mark.parametrize('size,shape', [(None, (48, 64)), (24, (24, 32)), (30, (30, 40)), (1, (1, 1)), ((10, 90), (10, 90)), ([7, 5], (7, 5)), (96, (96, 128))])
def test_sizes(folder, size, shape):
    assert read_frames(folder/'h264.mp4', [3, 1], size=size).shape == (2, *shape, 3)
    assert read_frames(folder/'h264.mp4', [], size=size).shape == (0, *shape, 3)

@pytest.mark.parametrize('size', [0, -3, (3,)*3, (0, 4), 2.5, 'small'])
def test_sizes_refused(folder, size):
    with pytest.raises(ValueError, match='^size: expected'): read_frames(folder/'h264.mp4', [0], size=size)

@pytest.mark.parametrize('indices', [[40], [-1], [0, 1000], torch.tensor([3, -40])])
def test_frames_that_do_not_exist(folder, indices):
    for kind in (FrameError, IndexError, ValueError):
        with pytest.raises(kind, match='has 40 frames'): read_frames(folder/'h264.mp4', indices)

@pytest.mark.parametrize('indices', [[.5], [[1, 2]], ['a'], [True, False]])
def test_indices_of_the_wrong_kind(folder, indices):
    with pytest.raises(ValueError, match='whole numbers'): read_frames(folder/'h264.mp4', indices)

@pytest.mark.parametrize('indices', [[3, 1], (3, 1), np.array([3, 1]), torch.tensor([3, 1]), [torch.tensor(3), torch.tensor(1)], range(3, 0, -2)])
def test_indices_of_any_kind(folder, indices): assert torch.equal(read_frames(folder/'h264.mp4', indices), read_frames(folder/'h264.mp4')[[3, 1]])

@pytest.mark.parametrize('name', ['h264.mp4', 'vp9.webm', 'late.mkv', 'mpeg4_b.avi'])
def test_spans_tile_the_video(folder, name):
    truth, duration = read_frames(folder/name), probe(folder/name).duration
    for step in (.04, .1, .25, 1/3, .7):
        starts = [i*step for i in range(100) if i*step < duration-1e-3]
        assert torch.equal(torch.cat([read_frames(folder/name, start=s, end=s+step) for s in starts]), truth), step
    assert len(read_frames(folder/name, start=.4, end=.8)) == 10
    assert torch.equal(read_frames(folder/name, end=.2), truth[:5]) and torch.equal(read_frames(folder/name, start=1.4), truth[35:])

@pytest.mark.parametrize('span', [(-.1, 1), (1, 1), (1, .5), (1.7, None), (99, 100), (float('nan'), 1)])
def test_spans_refused(folder, span):
    with pytest.raises(FrameError): read_frames(folder/'h264.mp4', start=span[0], end=span[1])

def test_indices_and_seconds_exclude_each_other(folder):
    with pytest.raises(ValueError, match='got both'): read_frames(folder/'h264.mp4', [0], start=0)

@pytest.mark.parametrize('name', ['h264.mp4', 'open_gop.mp4', 'mpeg4_b.avi'])
@pytest.mark.parametrize('chunk', [1, 7, 40, 64])
def test_pieces(folder, name, chunk):
    pieces = list(iter_frames(folder/name, chunk=chunk))
    assert all(len(p) == chunk for p in pieces[:-1]) and 0 < len(pieces[-1]) <= chunk
    assert torch.equal(torch.cat(pieces), read_frames(folder/name))
    assert torch.equal(torch.cat(list(iter_frames(folder/name, start=.52, end=1, size=12, chunk=chunk))), read_frames(folder/name, start=.52, end=1, size=12))

def handles():
    gc.collect()   # what other tests have dropped is no leak of these
    return len(os.listdir('/proc/self/fd'))

needs_proc = pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='counts open files in /proc')

@needs_proc
def test_no_handles_are_left(folder):
    probe(folder/'h264.mp4'); before = handles()
    for _ in range(20):
        read_frames(folder/'h264.mp4', [3, 30])
        pieces = iter_frames(folder/'h264.mp4', chunk=2); next(pieces); pieces.close()
        with pytest.raises(FrameError): read_frames(folder/'h264.mp4', [99])
    assert handles() == before

def encoded(path, frames, pix_fmt='yuv420p', matrix='ITU601', span='MPEG', tags=(6, 1), rotation=None, pts=None):
    "Write with all that `write_video` does not offer."
    with av.open(str(path), 'w') as output:
        stream = output.add_stream('libx264', rate=25, options={'crf': '5'})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = tags
        if pts: stream.codec_context.time_base = Fraction(1, 100)
        if rotation is not None: stream.set_display_rotation(rotation)
        for i, frame in enumerate(frames.contiguous().numpy()):
            frame = video.VideoReformatter().reformat(av.VideoFrame.from_ndarray(frame, format='rgb24'), format=pix_fmt, dst_colorspace=matrix, dst_color_range=span)
            if pts: frame.pts, frame.time_base = pts(i), Fraction(1, 100)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path

@pytest.mark.parametrize('matrix,number', [('ITU601', 6), ('ITU709', 1)])
@pytest.mark.parametrize('span,code', [('MPEG', 1), ('JPEG', 2)])
def test_colour_matrix_and_range_come_from_the_file(tmp_path, matrix, number, span, code):
    patches = torch.tensor([[220, 30, 30], [30, 200, 40], [40, 60, 210], [255, 255, 255], [0, 0, 0], [90, 160, 170]], dtype=torch.uint8).repeat_interleave(16, 0).expand(2, 32, 96, 3)
    encoded(tmp_path/'patches.mp4', patches, 'yuv444p', matrix, span, (number, code))
    assert (read_frames(tmp_path/'patches.mp4').float()-patches.float())[:, 8:24, 8::16].abs().max() <= 6

@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, 'set_display_rotation'), reason='this PyAV cannot write a rotation')
@pytest.mark.parametrize('degrees', [90, -90, 180])
def test_rotation(tmp_path, degrees):
    path = encoded(tmp_path/'turned.mp4', scene(6), rotation=degrees)
    info, upright = probe(path), read_frames(path)
    assert abs(info.rotation) == abs(degrees)
    assert upright.shape[1:3] == (info.height, info.width) == ((HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT))
    assert torch.equal(upright, torch.rot90(reference(path), info.rotation//90, (1, 2)))          # anticlockwise
    assert read_frames(path, [0], size=(20, 10)).shape == (1, 20, 10, 3)

def test_variable_rate(tmp_path, folder):
    path = encoded(tmp_path/'jumpy.mp4', scene(20), pts=lambda i: i*i)
    info = probe(path)
    assert info.variable and info.frames == 20 and not probe(folder/'h264.mp4').variable
    assert len(read_frames(path, start=0, end=1)) == 10                  # squares below 100
    assert torch.equal(read_frames(path, [17, 2]), reference(path)[[17, 2]])

# bad files

def bad_files(folder, good):
    (folder/'empty.mp4').write_bytes(b''); (folder/'text.mp4').write_text('not found\n'*50); (folder/'zeros.mp4').write_bytes(bytes(5000)); (folder/'folder.mp4').mkdir()
    (folder/'list.m3u8').write_text('#EXTM3U\n#EXTINF:1,\nh264.mp4\n'); (folder/'script.txt').write_text('ffconcat version 1.0\nfile h264.mp4\n')
    with av.open(str(folder/'sound.mp4'), 'w') as output:
        stream = output.add_stream('aac', rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono'); frame.sample_rate = 16000
        output.mux(stream.encode(frame)); output.mux(stream.encode(None))
    with av.open(str(folder/'picture.png'), 'w', format='image2') as output:
        stream = output.add_stream('png'); stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'rgb24'
        output.mux(stream.encode(av.VideoFrame.from_ndarray(scene(1)[0].numpy(), format='rgb24'))); output.mux(stream.encode(None))
    for suffix in ('mp4', 'mkv', 'avi'):
        data = (good/f'h264.{suffix}').read_bytes()
        for part in (.02, .5, .99): (folder/f'torn{part}.{suffix}').write_bytes(data[:int(part*len(data))])
    return sorted(folder.iterdir())

def test_bad_files_are_video_errors_with_the_name(tmp_path, folder):
    files = bad_files(tmp_path, folder)
    for path in files:
        for act in (probe, read_frames, lambda p: read_frames(p, [0]), lambda p: list(iter_frames(p)), frame_types, packet_table, motion_vectors):
            with pytest.raises(VideoError) as e: act(path)
            assert path.name in str(e.value)
    checks = check_videos(files, progress=False)
    assert len(checks) == 17 and all(not c.ok and c.reason for c in checks)
    assert all('torn' in c.reason for c in checks if '0.5' in c.path.name or '0.99' in c.path.name)

def test_missing_files():
    with pytest.raises(FileNotFoundError, match='nowhere.mp4: no such file'): probe('nowhere.mp4')
    with pytest.raises(VideoError): read_frames('nowhere.mp4', [0])
    error = pickle.loads(pickle.dumps(VideoNotFound('a: b')))                            # loader workers send errors between processes
    assert type(error) is VideoNotFound and str(error) == 'a: b'

def test_names_that_look_like_addresses(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('http:clip.mp4', '-clip.mp4', 'a b%20c.mp4', 'ü.mp4'):
        Path(name).write_bytes((folder/'h264.mp4').read_bytes())
        assert probe(name).frames == COUNT

def test_damage_in_the_middle_is_noticed(folder, tmp_path):
    data = bytearray((folder/'intra.mp4').read_bytes()); middle = len(data)//3
    data[middle:middle+3000] = bytes(3000); (tmp_path/'holes.mp4').write_bytes(data)
    check, = check_videos([tmp_path/'holes.mp4'], progress=False)
    assert not check.ok and 'damaged' in check.reason

def test_check_says_what_is_odd(folder, tmp_path):
    (tmp_path/'wrong.mp4').write_bytes((folder/'vp9.webm').read_bytes())
    checks = check_videos([folder/'h264.mp4', tmp_path/'wrong.mp4', folder/'cut.mp4', 'gone.mp4'], workers=2, progress=False)
    assert [c.ok for c in checks] == [True, True, True, False] and [c.frames for c in checks] == [COUNT, COUNT, COUNT-5, 0]
    assert checks[0].reason == '' and 'matroska inside a .mp4' in checks[1].reason and 'header says 40' in checks[2].reason

@pytest.mark.parametrize('source,name,said', [
    ('h264.mp4', 'a.avi', 'mov inside a .avi'), ('h264.avi', 'a.mkv', 'avi inside a .mkv'), ('h264.mkv', 'a.MOV', 'matroska inside a .mov'), ('stream.ts', 'a.mp4', 'mpegts inside a .mp4'),
    ('h264.mp4', 'a.wmv', 'mov inside a .wmv'), ('h264.mp4', 'a.mpg', 'mov inside a .mpg'), ('h264.mp4', 'a.m4v', ''), ('stream.ts', 'a.ts', ''), ('vp9.webm', 'a.mkv', '')])
def test_check_says_when_the_name_hides_the_container(folder, tmp_path, source, name, said):
    (tmp_path/name).write_bytes((folder/source).read_bytes())
    check, = check_videos([tmp_path/name], progress=False)
    assert check.ok and check.reason == said

def test_check_says_when_the_rate_varies(tmp_path):
    check, = check_videos([encoded(tmp_path/'jumpy.mp4', scene(20), pts=lambda i: i*i)], progress=False)
    assert check.ok and check.frames == 20 and check.reason == 'variable frame rate (mean 5.263 a second)'       # 19 gaps in 3.61 s

def hollow(folder, suffix, body=None):
    "A proper file whose video stream holds nothing, or one packet that is no picture."
    with av.open(str(folder/f'hollow.{suffix}'), 'w') as output:
        stream = output.add_stream('libx264', rate=25); stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        output.start_encoding()
        if body:
            packet = av.Packet(body); packet.pts = packet.dts = 0; packet.stream = stream; packet.is_keyframe = True; output.mux(packet)
    return folder/f'hollow.{suffix}'

@pytest.mark.parametrize('suffix,body', [('mp4', None), ('mkv', None), ('avi', None), ('mp4', bytes(range(200))), ('mkv', bytes(range(200)))], ids=lambda x: x if isinstance(x, str) else 'no packet' if x is None else 'no picture')
def test_check_says_when_there_is_no_frame(tmp_path, suffix, body):
    path = hollow(tmp_path, suffix, body)
    check, = check_videos([path], progress=False)
    assert not check.ok and check.frames == 0 and check.reason.startswith(f'{path}: ') and ('no frame' in check.reason or 'not a video' in check.reason or 'no video stream' in check.reason), check.reason

def test_frame_numbers_and_times(folder, tmp_path):
    times = frame_times(folder/'h264.mp4')
    assert len(times) == COUNT and np.allclose(times, np.arange(COUNT)/25)
    times[:] = 0; assert frame_times(folder/'h264.mp4')[1] > 0                             # a copy: the index cannot be spoilt
    assert frame_numbers(folder/'h264.mp4').tolist() == list(range(COUNT))
    assert frame_numbers(folder/'h264.mp4', .4, .8).tolist() == list(range(10, 20)) and frame_numbers(folder/'h264.mp4', end=.1).tolist() == [0, 1, 2]
    assert frame_numbers(encoded(tmp_path/'jumpy.mp4', scene(20), pts=lambda i: i*i), .1, 1).tolist() == list(range(4, 10))     # shown at .16, .25 … .81 s
    for span in ((-1, 1), (1, 1), (2, 3)):
        with pytest.raises(FrameError): frame_numbers(folder/'h264.mp4', *span)

def test_check_has_a_limit(folder):
    check, = check_videos([folder/'h264.mp4'], limit=0, progress=False)
    assert not check.ok and 'not decoded after 0 s' in check.reason

def test_a_stream_that_turns_up_late_is_a_video_error(folder):
    "PyAV says IndexError when a damaged file declares a stream after the others (found by fuzzing)."
    with pytest.raises(VideoError, match='h264.mp4: not a video, or damaged'):
        with video._opened(folder/'h264.mp4'): raise IndexError('list index out of range')
    with pytest.raises(FrameError):                                                        # but a frame that the file does not have stays what it is
        with video._opened(folder/'h264.mp4'): raise FrameError('indices: …')

def test_index_follows_the_file(tmp_path):
    for count in (10, 15):
        write_video(tmp_path/'clip.mp4', scene(count)); assert probe(tmp_path/'clip.mp4').frames == count

def mutated(data, chance):
    "One of the files, damaged in one of the ways in which files get damaged."
    body = bytearray(chance.choice(data)); kind = chance.choice(['bits', 'bits', 'head', 'tail', 'cut', 'splice', 'zeros', 'insert'])
    at, length = chance.randrange(len(body)), chance.randrange(1, 600)
    if kind == 'bits':
        for _ in range(chance.choice([1, 10, 200])): body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    elif kind == 'head':
        for _ in range(chance.choice([1, 5, 20])): body[chance.randrange(min(len(body), 1000))] = chance.randrange(256)
    elif kind == 'tail':
        for _ in range(chance.choice([1, 5, 20])): body[-1-chance.randrange(min(len(body), 1500))] = chance.randrange(256)
    elif kind == 'cut': del body[at:]
    elif kind == 'splice': body[:length] = chance.choice(data)[:length]
    elif kind == 'zeros': body[at:at+length] = bytes(len(body[at:at+length]))
    else: body[at:at] = chance.randbytes(length)
    return bytes(body)

@needs_proc
def test_two_thousand_mutated_files(tmp_path):
    "Only `VideoError` may come out, no file may hang, no handle may stay open."
    data, chance, bad = [], random.Random(0), 0
    for name in ('h264.mp4', 'h264.mkv', 'mpeg4_b.avi', 'mpeg4.avi', 'vp9.webm', 'hevc.mp4'):
        data.append(write_video(tmp_path/name, scene(12, 32, 32), **{**FILES[name], 'gop': 5}).read_bytes())
    data.append(remux(tmp_path/'h264.mp4', tmp_path/'h264.ts').read_bytes())
    before, slowest = handles(), 0.
    for i in range(2000):
        path = tmp_path/f'mutant{i}.mp4'
        path.write_bytes(mutated(data, chance)); begun = time.monotonic()
        try:
            frames = probe(path).frames
            assert read_frames(path, [frames-1, 0, frames//2], size=16).shape[0] == 3
            assert len(packet_table(path)['pts']) > 0 and len(frame_times(path)) == frames
        except VideoError as e: assert path.name in str(e); bad += 1
        slowest = max(slowest, time.monotonic()-begun); path.unlink()
    assert 400 < bad < 1900 and slowest < 30 and handles() == before

# writing

def test_writing_from_pieces_equals_writing_at_once(tmp_path):
    frames = scene()
    for name, form in dict(whole=frames, array=frames.numpy(), chunks=frames.split(7), single=iter(frames), lazily=(f for f in frames.numpy())).items():
        write_video(tmp_path/f'{name}.mp4', form)
        assert torch.equal(read_frames(tmp_path/f'{name}.mp4'), read_frames(tmp_path/'whole.mp4'))

def test_same_frames_same_file(tmp_path):
    frames = scene(40, 96, 128)
    assert len({write_video(tmp_path/f'{i}.mp4', frames).read_bytes() for i in range(6)}) == 1

def test_writing_to_memory(tmp_path):
    buffer = io.BytesIO(); assert write_video(buffer, scene()) is buffer
    (tmp_path/'memory.mp4').write_bytes(buffer.getvalue())
    assert probe(tmp_path/'memory.mp4').frames == COUNT and b'ftyp' in buffer.getvalue()[:16]

@pytest.mark.parametrize('fps', [1, 10, 23.976, 25, 29.97, 30, 59.94, 120])
def test_rate(tmp_path, fps):
    info = probe(write_video(tmp_path/'rate.mp4', scene(5), fps=fps))
    assert abs(info.fps/fps - 1) < 1e-3 and abs(info.duration*fps - 5) < .1

def test_gop(tmp_path):
    write_video(tmp_path/'gop.mp4', scene(), gop=8)
    table, types = packet_table(tmp_path/'gop.mp4'), frame_types(tmp_path/'gop.mp4')
    assert table['key'].sum() >= 5 and len(types) == COUNT and set(types) <= set('IPB') and types[0] == 'I'
    assert (table['dts'].diff() > 0).all() and len(table['pts'].unique()) == COUNT and (table['size'] > 0).all()

def test_options_may_be_numbers(tmp_path):
    write_video(tmp_path/'plain.mp4', scene(), options={'bf': 0})
    assert 'B' not in frame_types(tmp_path/'plain.mp4')

grey = lambda *shape: torch.zeros(shape, dtype=torch.uint8)

@pytest.mark.parametrize('change,error', [
    (dict(frames=[]), 'at least one'), (dict(frames=grey(0, 4, 4, 3)), 'at least one'), (dict(frames=torch.rand(2, 4, 4, 3)), 'uint8'), (dict(frames=grey(2, 3, 4, 4)), r'\(T, H, W, 3\)'),
    (dict(frames=grey(2, 5, 4, 3)), 'even sides'), (dict(frames=[grey(2, 4, 4, 3), grey(2, 4, 6, 3)]), 'one size'), (dict(codec='libx265x'), 'expected an encoder'),
    (dict(fps=0), 'fps'), (dict(fps=float('inf')), 'fps'), (dict(pix_fmt='nope'), 'pix'), (dict(path='clip.jpeg'), 'ends in one of'), (dict(path='clip'), 'ends in one of')])
def test_writing_refused_leaves_nothing(tmp_path, monkeypatch, change, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=error): write_video(**{'path': 'clip.mp4', 'frames': scene(4), **change})
    assert list(tmp_path.iterdir()) == []

def test_interrupted_writing_keeps_the_old_file(tmp_path):
    def broken(): yield scene(3); raise KeyboardInterrupt
    write_video(tmp_path/'clip.mp4', scene(5))
    with pytest.raises(KeyboardInterrupt): write_video(tmp_path/'clip.mp4', broken())
    assert probe(tmp_path/'clip.mp4').frames == 5 and len(list(tmp_path.iterdir())) == 1

def test_odd_sides_without_subsampling(tmp_path):
    assert read_frames(write_video(tmp_path/'odd.mp4', scene(4, 33, 47), pix_fmt='yuv444p')).shape == (4, 33, 47, 3)

# motion

@pytest.mark.parametrize('shift', [2, -3])
def test_motion_vectors_of_a_known_motion(tmp_path, shift):
    ground = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)), (96, 128))[0].permute(1, 2, 0).mul(255).byte()
    vectors = motion_vectors(write_video(tmp_path/'slide.mp4', torch.stack([ground.roll(shift*t, 1) for t in range(6)]), options={'bf': '0'}))
    assert len(vectors) == 6 and vectors[0].shape == (0, 10) and vectors[1].dtype == torch.int32
    rows = torch.cat(vectors)
    assert (rows[:, 7]/rows[:, 9]).median() == -shift and (rows[:, 8]/rows[:, 9]).median() == 0

def test_motion_vectors_need_a_codec_that_gives_them(folder):
    with pytest.raises(VideoError, match='gives no motion vectors'): motion_vectors(folder/'vp9.webm')

# real files

real = json.loads((REAL/'manifest.json').read_text()) if (REAL/'manifest.json').exists() else []

@pytest.mark.skipif(not real, reason='needs the real files: set FGAR_REAL to their folder')
@pytest.mark.parametrize('entry', real, ids=lambda e: Path(e['path']).name)
def test_real_file(entry):
    path, info = REAL/entry['path'], probe(REAL/entry['path'])
    assert info.frames == entry['pyav_frames'] and info.codec == entry['codec']
    turned = any(r % 180 for r in entry['rotation'])
    assert (info.width, info.height) == ((entry['h'], entry['w']) if turned else (entry['w'], entry['h']))
    assert info.rotation % 360 == (entry['rotation'] or [0])[0] % 360
    with video._opened(path) as (container, stream):
        pixels = video._Pixels(info, 48)
        truth = torch.stack([pixels(frame) for frame in container.decode(stream)])
    assert len(truth) == info.frames
    picks = torch.randint(info.frames, (8,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_frames(path, picks, size=48), truth[picks]), picks


def test_one_of_many_is_said_or_taken(tmp_path):
    with pytest.raises(ValueError, match="workers: expected None or at least 0"): check_videos([], workers=-3)
    path = write_video(tmp_path/'clip.MP4', torch.zeros(4, 32, 48, 3, dtype=torch.uint8))
    assert [c.ok for c in check_videos(str(path), progress=False)] == [True]
    assert read_frames(path, [0], size=np.int64(16)).shape == (1, 16, 24, 3)
    with pytest.raises(ValueError, match=r'indices: expected a list of whole numbers, got 3. One frame: \[3\]'): read_frames(path, 3)
    with pytest.raises(ValueError, match='codec: expected one that goes into this kind of file'): write_video(tmp_path/'clip.webm', torch.zeros(4, 32, 48, 3, dtype=torch.uint8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['clip.MP4']
