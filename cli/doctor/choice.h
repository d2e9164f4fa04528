// SPDX-License-Identifier: Apache-2.0
// Which machine backend serves on a host. Pure: what was measured goes in, the choice comes out.
#pragma once

#include <string>
#include <vector>

namespace hearth::cli {

// What one line says about the KVM that was probed ("usable: ..." or why not).
struct KvmVerdict {
  bool usable = false;
  std::string why;
  std::string advice;
};

struct Measured {
  KvmVerdict kvm;
  // What the backends need beside a KVM and is not here, such as "hearth-vmm is missing"; empty:
  // nothing.
  std::string vmm_missing;
  std::string libvirt_missing;
  bool testbed = false;  // Whether tests/testbed could run here, which is no choice of its own.
};

enum class Backend { kNone, kKvm, kLibvirt };

struct Choice {
  Backend backend = Backend::kNone;
  bool emulated = false;  // The processor is; of kLibvirt only.
  bool testbed = false;   // Of kNone: hearth-vmm runs in tests/testbed at least.
  std::string reason;     // Of kNone too: what stands against each.
  std::string cost;       // Empty: none.
};

// The first that serves of KVM by hearth-vmm, QEMU with KVM by libvirt, QEMU without KVM by
// libvirt; with `only`, of that backend's ways.
Choice Choose(const Measured& measured, Backend only = Backend::kNone);

// "kvm", "libvirt" or "none", as hearthd's --backend has them.
const char* BackendName(Backend backend);
// "kvm" or "tcg", as hearth-libvirt's --accel has them; empty where it is not used.
std::string AccelName(const Choice& choice);
// In one line what runs microVMs, and what that costs: "kvm: ...", "libvirt: ...", "none: ...".
std::string Summary(const Choice& choice);
// The commands that start what was chosen, one a line. Empty for kNone.
std::vector<std::string> StartCommands(const Choice& choice);

}  // namespace hearth::cli
