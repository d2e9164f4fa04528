// SPDX-License-Identifier: Apache-2.0
// The limits of hearth-libvirt, in one place.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::libvirt {

// A machine holds one thread, a console buffer and its socket's queues: about 100 KiB together,
// beside QEMU itself. Sessions are limited as hearth-launcher's.
inline constexpr size_t kMaxMachines = 256;
inline constexpr size_t kMaxQueuedRequests = 16;  // Of one machine.

inline constexpr uint32_t kMinGuestMemoryMib = 16;
inline constexpr uint32_t kMaxGuestMemoryMib = 1024 * 1024;
inline constexpr uint32_t kMaxVcpus = 32;
// QEMU's microvm has eight places for devices; the agent's port and the entropy take two.
inline constexpr size_t kMaxDisks = 6;
inline constexpr size_t kMaxSerialBytes = 20;
inline constexpr size_t kMaxCommandLineBytes = 2048;  // COMMAND_LINE_SIZE of Linux on x86-64.
inline constexpr uint64_t kMaxKernelBytes = 256ull << 20;

// Of a saved domain's image, beyond guest memory's size: QEMU's 8 bytes for each page that is not
// zero and the devices' state. Within wire::kMaxSavedStateBytes.
inline constexpr uint64_t kMaxImageTailBytes = 512 * 1024;

// The same as hearth-vmm's serial port has (vmm/devices/serial.h).
inline constexpr size_t kConsoleBufferBytes = 4096;
inline constexpr uint64_t kConsoleDefaultBytesPerSecond = 256 * 1024;
inline constexpr uint64_t kConsoleBurstBytes = 256 * 1024;

// A processor's XML has some 80 bytes for each feature, of which there are a few hundred.
inline constexpr size_t kMaxCpuXmlBytes = 64 * 1024;
inline constexpr size_t kMaxCpuFileBytes = 1 << 20;  // Of `hearth doctor --json`, some 20 KiB.
inline constexpr size_t kMaxComparedCpus = 64;

// Of QEMU's answer about its disks, which takes some 2 KiB for each.
inline constexpr size_t kMaxBlockStatsBytes = 256 * 1024;

// For a QEMU that libvirt says it has destroyed, and for those that an earlier run left.
inline constexpr int kProcessEndTimeoutMs = 10'000;
// For a QEMU whose machine is ending, before it is killed past libvirt. Well below what hearthd
// waits for an end (KvmBackendConfig::answer_timeout), and above what libvirt takes for one.
inline constexpr uint64_t kKillAfterNs = 3'000'000'000;
// A daemon that is silent for longer is taken for gone: the keepalive interval times one more than
// the unanswered ones. Nobody waits longer for a connection either.
inline constexpr int kKeepAliveSeconds = 5;
inline constexpr unsigned kKeepAliveCount = 3;
inline constexpr int kDaemonPatienceSeconds =
    kKeepAliveSeconds * (static_cast<int>(kKeepAliveCount) + 1);

// For libvirt's event when a QEMU has ended.
inline constexpr uint64_t kEventTimeoutNs = 5'000'000'000;

}  // namespace hearth::libvirt
