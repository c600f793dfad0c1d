"Compressed video: references, painting, accumulation, flow from vectors in every kind of file, partial decoding, and what bad input says."
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.core import generator
from fgar.data.compressed import CELL, accumulate, compressed_clip, may_be_shared, motion_flow, motion_stack, paint, read_vectors, reference_frames, step_flow
from fgar.data.video import FrameError, VideoError, VideoNotFound, frame_types, motion_vectors, probe, read_frames, write_video
from fgar.ops.flow import dequantise, grey, warp

REAL = Path(os.environ.get('FGAR_REAL', Path(__file__).parents[1]/'../shared/real'))


def pan(frames=26, dx=3, dy=-2, h=96, w=128):
    "A camera that moves: what is at x is at x + (dx, dy) in the next frame."
    m = (frames - 1)*max(abs(dx), abs(dy)) + 4
    x = F.interpolate(torch.rand(1, 3, (h + 2*m)//9, (w + 2*m)//9, generator=generator('pan', h, w)), size=(h + 2*m, w + 2*m), mode='bicubic').clamp(0, 1)[0]
    return torch.stack([(255*x[:, m-dy*t:m-dy*t+h, m-dx*t:m-dx*t+w]).byte().permute(1, 2, 0) for t in range(frames)])


FILES = {'pyramid.mp4': dict(options={'refs': '1', 'b-adapt': '0', 'bf': '3'}), 'p_only.mp4': dict(options={'bf': '0', 'refs': '1'}), 'b_flat.mkv': dict(options={'bf': '2', 'b-pyramid': 'none', 'b-adapt': '0', 'refs': '1'}), 'open_gop.mp4': dict(options={'open-gop': '1', 'bf': '3', 'b-adapt': '0', 'refs': '1'}),
         'mpeg4.mp4': dict(codec='mpeg4', crf=None, options={'qscale': '3'}), 'mpeg4_b.avi': dict(codec='mpeg4', crf=None, options={'qscale': '3', 'bf': '2'}),
         'mpeg2_b.mkv': dict(codec='mpeg2video', crf=None, options={'qscale': '3', 'bf': '2'}), 'mpeg1.mkv': dict(codec='mpeg1video', crf=None, options={'qscale': '3'})}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for name, options in FILES.items(): write_video(folder/name, pan(), gop=12, **options)
    return folder


def middle(flow): return flow[..., 16:-16, 16:-16].flatten(-2).median(-1).values


# references

@pytest.mark.parametrize('types,order,loose,past,future', [
    ('IPPP', [0, 1, 2, 3], [], [-1, 0, 1, 2], [-1]*4),
    ('IBBP', [0, 2, 3, 1], [1, 2], [-1, 0, 0, 0], [-1, 3, 3, -1]),
    ('IBBP', [0, 2, 3, 1], [2], [-1, 0, 1, 0], [-1, 3, 3, -1]),
    ('IBBBP', [0, 3, 2, 4, 1], [1, 3], [-1, 0, 0, 2, 0], [-1, 2, 4, 4, -1]),
    ('IBPBI', [0, 2, 1, 4, 3], [1, 3], [-1, 0, 0, 2, -1], [-1, 2, -1, 4, -1]),                  # the last B looks into the next GOP
    ('I', [0], [], [-1], [-1]), ('', [], [], [], []),
    ('BPI', [1, 0, 2], [0], [-1, -1, -1], [1, -1, -1])])
def test_reference_frames(types, order, loose, past, future):
    shared = np.array([i not in loose for i in range(len(types))], dtype=bool)
    p, f = reference_frames(types, np.array(order, dtype=np.int64), shared)
    assert p.tolist() == past and f.tolist() == future


@pytest.mark.parametrize('head,shared', [(0x65, True), (0x41, True), (0x01, False), (0x61, True), (0x21, True)])
@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('before', [(), (b'\x09\x10',), (b'\x67' + bytes(range(255)), b'\x68abc', b'\x06' + b's'*300)])
def test_may_be_shared(head, shared, plain, before):
    units = [*before, bytes([head]) + b'slice data']
    assert may_be_shared(b''.join((b'\0\0\0\1' if plain else len(u).to_bytes(4, 'big')) + u for u in units), not plain) == shared


@pytest.mark.parametrize('name', FILES)
def test_references_are_decoded_before(folder, name):
    v = read_vectors(folder/name)
    assert v.types == ''.join(frame_types(folder/name)) and len(set(v.order.tolist())) == 26
    for i, t in enumerate(v.types):
        p, f = int(v.past_ref[i]), int(v.future_ref[i])
        assert (t == 'I') == (p < 0 and f < 0) and (t != 'P' or p >= 0 > f)
        for r in (p, f): assert r < 0 or v.order[r] < v.order[i]
        if f < 0: assert v.future[i].isnan().all()
        if t != 'I' and i < 25 and not (t == 'B' and name.startswith('mpeg4')): assert v.past[i].isfinite().any() or v.future[i].isfinite().any()
    if name == 'pyramid.mp4': assert {v.types[r] for r in v.past_ref.tolist() if r >= 0} == {'I', 'P', 'B'}
    if name == 'b_flat.mkv': assert 'B' not in {v.types[r] for r in v.past_ref.tolist() if r >= 0}


# painting

@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(17, 70), st.integers(17, 70))
def test_paint_is_block_by_block(seed, blocks, h, w):
    g, frames = generator(seed), 3
    r = lambda low, high: torch.randint(low, high, (blocks,), generator=g)
    side = torch.tensor([4, 8, 16])
    bw, bh = side[r(0, 3)], side[r(0, 3)]
    H, W = -(-h//16)*16, -(-w//16)*16
    x = (torch.rand(blocks, generator=g)*((W - bw)//4 + 1)).long()*4 + bw//2
    y = (torch.rand(blocks, generator=g)*((H - bh)//4 + 1)).long()*4 + bh//2
    source, mx, my, scale, at = 2*r(0, 2) - 1, r(-90, 90), r(-90, 90), torch.tensor([1, 2, 4])[r(0, 3)], r(0, frames).sort().values
    rows = torch.stack([source, bw, bh, x, y, x, y, mx, my, scale], 1).int()
    keep = [i for i in range(blocks)]
    slow = torch.full((2, frames, 2, H//4, W//4), torch.nan); painted = torch.zeros(2, frames, H//4, W//4)
    for i in keep:
        area = (int(source[i] > 0), int(at[i]), slice((y[i]-bh[i]//2)//4, (y[i]+bh[i]//2)//4), slice((x[i]-bw[i]//2)//4, (x[i]+bw[i]//2)//4))
        painted[area] += 1
        slow[area[0], area[1], :, area[2], area[3]] = torch.stack([mx[i], my[i]]).view(2, 1, 1)/scale[i]
    fast = torch.stack(paint(at, rows, frames, (h, w)))
    single = (painted <= 1)[:, :, None].expand_as(fast)                                          # blocks of a file never overlap
    assert_close(fast[single], slow[single], equal_nan=True)


def test_all_vectors_of_a_file_are_there(folder):
    v, rows = read_vectors(folder/'pyramid.mp4'), motion_vectors(folder/'pyramid.mp4')
    for i, r in enumerate(rows):
        for field, mine in ((v.past, r[r[:, 0] < 0]), (v.future, r[r[:, 0] > 0])):
            assert field[i, 0].isfinite().sum()*CELL**2 == (mine[:, 1]*mine[:, 2]).sum()


# flow

@pytest.mark.parametrize('name', FILES)
def test_a_pan_is_found_in_every_kind_of_file(folder, name):
    flow = motion_flow(folder/name, range(25))
    assert flow.shape == (2, 25, 96, 128) and flow.isfinite().all()
    last = 24 if name.startswith(('mpeg1', 'mpeg2', 'mpeg4_b')) else 25                          # FFmpeg does not export the last frame of these
    assert_close(middle(flow)[:, :last], torch.tensor([3., -2.])[:, None].expand(2, last), atol=.3, rtol=0)


@pytest.mark.parametrize('name', FILES)
def test_accumulated_motion_leads_back_to_the_i_frame(folder, name):
    clip, types = compressed_clip(folder/name, range(26)), frame_types(folder/name)
    back = torch.tensor([t - max(i for i in range(t + 1) if types[i] == 'I') for t in range(26)])
    assert clip.types == ''.join(types) and torch.equal(clip.reference, torch.arange(26) - back)
    assert torch.equal(clip.rgb, read_frames(folder/name, clip.reference)) and clip.motion.shape == (2, 26, 96, 128)
    inner = clip.motion[..., 24:-32, 40:-8].flatten(2).median(2).values                           # places that were in the picture all along
    known = torch.tensor([t != 'B' or not name.startswith('mpeg4') for t in types])
    if name.startswith('mpeg'): known[25] = False
    assert_close(inner[:, known], (torch.tensor([-3., 2.])[:, None]*back)[:, known], atol=1.51, rtol=0)


def test_warping_the_i_frame_gives_the_frame(folder):
    x, clip = read_frames(folder/'pyramid.mp4'), compressed_clip(folder/'pyramid.mp4', range(26))
    images = lambda f: f.permute(0, 3, 1, 2).float()
    moved = warp(images(clip.rgb), clip.motion.transpose(0, 1))
    error = lambda y: (y - images(x))[..., 24:-32, 40:-8].abs().mean()
    assert error(moved) < .35*error(images(clip.rgb))


def test_accumulation_of_known_vectors():
    "Two hops of one cell each, through a field that changes from place to place."
    from fgar.data.compressed import Vectors
    past = torch.zeros(3, 2, 4, 6); past[0] = torch.nan
    past[1, 0] = torch.arange(6.)*CELL/4; past[2, 0] = CELL                                       # frame 2 came from one cell to the right
    v = Vectors(torch.arange(3), 'IPP', np.arange(3), past, torch.full_like(past, torch.nan), torch.tensor([-1, 0, 1]), torch.tensor([-1, -1, -1]), (16, 24))
    assert_close(accumulate(v)[2, 0, 0], CELL + torch.tensor([1., 2., 3., 4., 5., 5.])*CELL/4)
    assert accumulate(v)[0].eq(0).all() and torch.equal(accumulate(v)[1], past[1])


def test_blocks_without_vectors_do_not_move():
    from fgar.data.compressed import Vectors
    nothing = torch.full((3, 2, 4, 4), torch.nan)
    v = Vectors(torch.arange(3), 'IPP', np.arange(3), nothing, nothing, torch.tensor([-1, 0, 1]), torch.tensor([-1, -1, -1]), (16, 16))
    assert accumulate(v).eq(0).all() and step_flow(v, torch.arange(2)).eq(0).all()


def test_mirrored_film_has_mirrored_flow(tmp_path):
    for name, frames in (('a', pan(8)), ('b', pan(8).flip(2))): write_video(tmp_path/f'{name}.mp4', frames, options={'refs': '1'})
    a, b = (middle(motion_flow(tmp_path/f'{n}.mp4', range(7))) for n in 'ab')
    assert_close(b, a*torch.tensor([[-1.], [1.]]), atol=.3, rtol=0)


# clips of a file

@pytest.mark.parametrize('name', ['pyramid.mp4', 'open_gop.mp4', 'mpeg4_b.avi'])
def test_part_of_a_file_is_part_of_the_whole(folder, name):
    path = folder/name
    flow, clip = motion_flow(path, range(25)), compressed_clip(path, range(26))
    for at in ([20], [11, 12], [24, 0, 13, 13]):
        assert_close(motion_flow(path, at), flow[:, at]); assert_close(compressed_clip(path, at).motion, clip.motion[:, at])
        assert torch.equal(compressed_clip(path, torch.tensor(at)).rgb, clip.rgb[at])


def test_only_the_gops_that_are_needed_are_decoded(folder):
    assert read_vectors(folder/'pyramid.mp4', [14]).numbers.tolist() == list(range(12, 24))
    assert read_vectors(folder/'pyramid.mp4', [3, 25]).numbers.tolist() == [*range(12), 24, 25]


def test_stacks(folder):
    path = folder/'pyramid.mp4'
    every, stack = motion_flow(path, range(25)), motion_flow(path, [0, 10, 23, 25], 3)
    assert_close(stack, every[:, [0, 1, 2, 10, 11, 12, 23, 24, 24, 24, 24, 24]])
    levels = motion_stack(path, [0, 10], 3, size=48)
    assert levels.shape == (6, 48, 64, 2) and levels.dtype == torch.uint8
    assert (dequantise(levels).permute(3, 0, 1, 2) - motion_flow(path, [0, 10], 3, size=48)).abs().max() <= 20/254*1.001
    assert motion_flow(path, []).shape == (2, 0, 96, 128)


@pytest.mark.parametrize('size', [48, (48, 64), (96, 32), 192])
def test_lengths_follow_the_size(folder, size):
    flow, frames = motion_flow(folder/'p_only.mp4', [4, 5], size=size), read_frames(folder/'p_only.mp4', [4], size=size)
    assert flow.shape[2:] == frames.shape[1:3]
    h, w = flow.shape[2:]
    assert_close(flow[..., h//4:-h//4, w//4:-w//4].flatten(2).median(2).values[:, 0], torch.tensor([3*w/128, -2*h/96]), atol=.15, rtol=0)
    assert compressed_clip(folder/'p_only.mp4', [4], size).motion.shape[2:] == (h, w)


@pytest.mark.parametrize('h,w', [(50, 70), (48, 66), (34, 34)])
def test_sizes_that_are_no_multiple_of_16(tmp_path, h, w):
    write_video(tmp_path/'x.mp4', pan(6, 1, 1, h, w))
    assert motion_flow(tmp_path/'x.mp4', range(5)).shape == (2, 5, h, w) and compressed_clip(tmp_path/'x.mp4', [5]).motion.shape == (2, 1, h, w)


def test_odd_sizes(tmp_path):
    write_video(tmp_path/'x.mp4', pan(6, 1, 1, 49, 67), pix_fmt='yuv444p')
    assert motion_flow(tmp_path/'x.mp4', range(5)).shape == (2, 5, 49, 67)


# real files

MOVING = {'formats/ucf_hmdb_kinetics/v_Basketball_g01_c01.avi': 25, 'formats/ucf_hmdb_kinetics/TrumanShow_wave_f_nm_np1_fr_med_26.avi': 20, 'formats/mmaction2/part_0.mp4': 12, 'formats/thetis_rgb/p3_backhand_s3.avi': 38,
          'formats/decord/video_0.mov': 0, 'formats/decord/video_180.mov': 0, 'formats/decord/video_270.mov': 0, 'skate_tricks/clips/kickflip000.mp4': 14}


@pytest.mark.parametrize('name', MOVING)
def test_vectors_of_real_files_explain_what_changes(name):
    "Frame t + 1 warped by the flow is nearer to frame t than as it is; a rotated file whose vectors were not rotated would fail."
    path = REAL/name
    if not path.exists(): pytest.skip('real footage is not here (FGAR_REAL)')
    start, stop = MOVING[name], min(MOVING[name] + 7, probe(path).frames)
    x = grey(read_frames(path, range(start, stop), size=160))
    flow = motion_flow(path, range(start, stop - 1), size=160).transpose(0, 1)
    plain, moved, back = ((y - x[:-1]).abs().mean().item() for y in (x[1:], warp(x[1:], flow), warp(x[1:], -flow)))
    assert moved < plain and moved < back


@pytest.mark.parametrize('name', [*MOVING, 'formats/mmaction2/test.avi'])
def test_real_i_frames_moved_by_the_vectors_are_nearer(name):
    path = REAL/name
    if not path.exists(): pytest.skip('real footage is not here (FGAR_REAL)')
    types, start = frame_types(path), MOVING.get(name, 0)
    at = next(i for i in range(start + 1, len(types)) if types[i] == 'P')
    clip, x = compressed_clip(path, [at], size=160), grey(read_frames(path, [at], size=160))
    still = grey(clip.rgb)
    assert (warp(still, clip.motion.transpose(0, 1)) - x).abs().mean() < .95*(still - x).abs().mean()


# errors

@pytest.mark.parametrize('call,kind,message', [
    (lambda p: motion_flow(p, [26]), FrameError, 'from 0 to 25, got .26.'), (lambda p: motion_flow(p, [-1]), FrameError, 'from 0 to 25'), (lambda p: motion_flow(p, [[1]]), FrameError, 'frame numbers'),
    (lambda p: motion_flow(p, [1], 0), ValueError, 'at least 1 field'), (lambda p: motion_flow(p, [1], size=-1), ValueError, 'size: expected'),
    (lambda p: compressed_clip(p, []), FrameError, 'at least one frame number'), (lambda p: compressed_clip(p, [26]), FrameError, '26 frames'), (lambda p: read_vectors(p, [99]), FrameError, 'expected 0 to 25'),
    (lambda p: motion_flow(p.parent/'none.mp4', [0]), VideoNotFound, 'no such file')])
def test_bad_input_says_what_to_do(folder, call, kind, message):
    with pytest.raises(kind, match=message): call(folder/'pyramid.mp4')


def test_codecs_without_vectors(tmp_path):
    write_video(tmp_path/'x.webm', pan(4), codec='libvpx-vp9')
    for call in (motion_flow, compressed_clip, motion_stack):
        with pytest.raises(VideoError, match='vp9 gives no motion vectors.*Rewrite it'): call(tmp_path/'x.webm', [0])


def test_one_frame_has_no_flow(tmp_path):
    write_video(tmp_path/'x.mp4', pan(1))
    with pytest.raises(VideoError, match='at least 2 frames, got 1'): motion_flow(tmp_path/'x.mp4', [0])
    assert compressed_clip(tmp_path/'x.mp4', [0]).motion.eq(0).all()


def test_torn_files(folder, tmp_path):
    data = (folder/'pyramid.mp4').read_bytes(); (tmp_path/'x.mp4').write_bytes(data[:len(data)//2])
    with pytest.raises(VideoError, match='torn'): motion_flow(tmp_path/'x.mp4', [0])

def test_no_frames_are_no_vectors(tmp_path):
    write_video(tmp_path/'a.mp4', torch.zeros(4, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(FrameError, match=r'indices: expected 0 to 3, got \[\]'): read_vectors(tmp_path/'a.mp4', [])
