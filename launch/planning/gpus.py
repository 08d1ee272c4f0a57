"""NVIDIA GPUs with their published figures, and clusters of them."""

import dataclasses
from typing import Any

import numpy as np

from launch.planning import cuda
from launch.planning.machines import GB, Chip, Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu(Chip):
    """Published figures of a GPU, and of a node of them.

    Attributes:
      nvlink: bytes/s that a GPU can receive by NVLink, and send at the same
        time; vendors publish the sum of both directions.
      nic: bytes/s that a GPU can receive from other nodes by the network
        adapter that is its own, and send at the same time.
      node: number of GPUs of a node.
      domain: number of nodes that NVLink joins.
      capability: compute capability, (major, minor).
      sms: number of streaming multiprocessors.
      lanes: float32 lanes of a multiprocessor.
      clock: highest clock, GHz.
      shared: shared memory of a multiprocessor, KiB.
      l2: level-2 cache, bytes.
      title: the card's name.
    """

    nvlink: float
    nic: float
    node: int = 8
    domain: int = 1
    capability: tuple[int, int]
    sms: int
    lanes: int = 128
    clock: float
    shared: int = 228
    l2: int
    title: str


# Sources, NVIDIA's data sheets: A100 80GB SXM, H100 SXM, H200 SXM, DGX B200
# (of eight), GB200 NVL72 (of 72): dense bfloat16 FLOP/s (half of what is
# published with sparsity), memory bandwidth, NVLink (600, 900, 900, 1800 and
# 1800 GB/s both ways). DGX user guides: an adapter a GPU, 200 Gb/s in a DGX
# A100 (ConnectX-6), 400 Gb/s in DGX H100, H200, B200 and GB200 (ConnectX-7).
# CUDA C++ programming guide, 'Technical specifications per compute capability':
# shared memory and lanes. Memory, level-2 cache, multiprocessors and clock are
# what the driver reports, as openxla/xla lists it,
# xla/backends/gpu/target_config/specs.
GPUS = {
    'a100': Gpu(
        flops=312e12,
        memory=85_100_068_864,
        bandwidth=2039 * GB,
        nvlink=300 * GB,
        nic=25 * GB,
        capability=(8, 0),
        sms=108,
        lanes=64,
        clock=1.41,
        shared=164,
        l2=41_943_040,
        title='NVIDIA A100-SXM4-80GB',
    ),
    'h100': Gpu(
        flops=989.4e12,
        memory=84_942_979_072,
        bandwidth=3350 * GB,
        nvlink=450 * GB,
        nic=50 * GB,
        capability=(9, 0),
        sms=132,
        clock=1.98,
        l2=52_428_800,
        title='NVIDIA H100 80GB HBM3',
    ),
    'h200': Gpu(
        flops=989.4e12,
        memory=151_397_597_184,
        bandwidth=4800 * GB,
        nvlink=450 * GB,
        nic=50 * GB,
        capability=(9, 0),
        sms=132,
        clock=1.98,
        l2=52_428_800,
        title='NVIDIA H200',
    ),
    'b200': Gpu(
        flops=2250e12,
        memory=191_514_411_008,
        bandwidth=8000 * GB,
        nvlink=900 * GB,
        nic=50 * GB,
        capability=(10, 0),
        sms=148,
        clock=1.965,
        l2=132_644_864,
        title='NVIDIA B200',
    ),
    'gb200': Gpu(
        flops=2500e12,
        memory=197_897_748_480,
        bandwidth=8000 * GB,
        nvlink=900 * GB,
        nic=50 * GB,
        node=4,
        domain=18,
        capability=(10, 0),
        sms=152,
        clock=2.062,
        l2=135_528_448,
        title='NVIDIA GB200',
    ),
}

# A GpuTargetConfigProto of openxla/xla, stream_executor/
# device_description.proto. What does not differ between the cards is of the
# programming guide's table; a block can have all shared memory but 1 KiB.
_TARGET = """\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {optin}
  shared_memory_per_core: {shared}
  threads_per_core_limit: 2048
  core_count: {sms}
  fpus_per_core: {lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{
    major: {major}
    minor: {minor}
    feature_extension: {features}
  }}
  device_interconnect_info {{
    active_links: {links}
  }}
  device_vendor: "NVIDIA Corporation"
  name: "{title}"
}}
platform_name: "CUDA"
dnn_version_info {{
  major: {cudnn[0]}
  minor: {cudnn[1]}
}}
device_description_str: "{title}"
"""


@dataclasses.dataclass(frozen=True)
class Cluster(Topology):
    """Nodes of GPUs, e.g. `h100:8x8`.

    Attributes:
      chip: the GPU, one of GPUS.
      shape: number of nodes, and of GPUs in each.
    """

    chip: Gpu

    platform = 'gpu'
    # The library that sorts by radix asks the card how much room it needs.
    compiler_options = {'xla_gpu_enable_cub_radix_sort': False}

    @property
    def target(self) -> str:
        """Returns the GPU as the compiler wants it described, text."""
        chip = self.chip
        major, minor = chip.capability
        return _TARGET.format(
            optin=(chip.shared - 1) * 1024,
            shared=chip.shared * 1024,
            sms=chip.sms,
            lanes=chip.lanes,
            bandwidth=int(chip.bandwidth),
            l2=chip.l2,
            clock=chip.clock,
            memory=int(chip.memory),
            major=major,
            minor=minor,
            features='ACCELERATED_FEATURES' if major >= 9 else 'NONE',
            # Of 25 GB/s each way, 50 from the fifth generation on.
            links=int(chip.nvlink / ((50 if major >= 10 else 25) * GB)),
            title=chip.title,
            cudnn=cuda.CUDNN,
        )

    def devices(self):
        """Returns the devices, by jax's plugin for CUDA."""
        nodes, gpus = self.shape
        return cuda.devices_of(self.name, f'1x{nodes}x{gpus}', self.target)

    def lowering(self):
        """Returns a context in which cuDNN is taken to be there."""
        return cuda.with_cudnn(self.chip.capability)

    def coordinates(self, device: Any) -> tuple[int, ...]:
        """Returns the node, and the place in it."""
        return divmod(device.id, self.shape[1])

    def travel(self, kind, received, groups):
        """Returns the bytes by 'nvlink' and 'network', and seconds.

        A group of n devices in m domains of NVLink, g in each, gathers and
        reduces in two levels, every GPU with the adapter that is its own:
        `(m - 1) / (n - 1)` of the bytes come by the network and the others by
        NVLink, on which they are shared; of an all-to-all `(n - g) / (n - 1)`.
        Both links work at the same time on parts of the data, and the slower
        one decides; of several groups the slowest does. A permutation between
        domains is all by the network. Sources: NCCL's nccl-tests,
        doc/PERFORMANCE.md, for the bytes of rings; arXiv 2507.04786 for NCCL's
        channels; BlueConnect, MLSys 2019, for the levels.
        """
        shares = {self._share(kind, group) for group in groups}
        share = max(shares, key=lambda share: self._seconds(received, share))
        by_link = {
            'nvlink': received * (1 - share),
            'network': received * share,
        }
        return by_link, self._seconds(received, share)

    def _share(self, kind: str, group: np.ndarray) -> float:
        """Returns what share of its bytes a group receives by the network."""
        nodes = group[:, 0] // self.chip.domain
        _, sizes = np.unique(nodes, return_counts=True)
        n, smallest = len(group), int(sizes.min())
        if len(sizes) == 1:
            return 0.0
        if kind in ('all-to-all', 'ragged-all-to-all'):
            return (n - smallest) / (n - 1)
        if kind in ('all-gather', 'all-reduce', 'reduce-scatter'):
            # (m - 1) / (n - 1) if all are equal; the domain with the fewest
            # adapters waits for the most bytes through each.
            return min(1.0, (n / smallest - 1) / (n - 1))
        return 1.0

    def _seconds(self, received: float, share: float) -> float:
        return max(
            received * (1 - share) / self.chip.nvlink,
            received * share / self.chip.nic,
        )
