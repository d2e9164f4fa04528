// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor/choice.h"

#include "absl/strings/str_cat.h"

namespace hearth::cli {
namespace {

constexpr char kEmulationCost[] = "functions run 10 to 30 times slower and a start takes seconds";
constexpr char kTestbedCost[] = "seconds where hardware takes milliseconds";

std::string KvmText(const KvmVerdict& kvm) {
  return absl::StrCat("KVM is ", kvm.usable ? "usable" : "not usable", " (", kvm.why, ")");
}

// What stands against hearth-vmm; empty: nothing.
std::string AgainstVmm(const Measured& measured) {
  if (measured.kvm.usable) return measured.vmm_missing;
  return absl::StrCat(KvmText(measured.kvm), measured.vmm_missing.empty() ? "" : ", ",
                      measured.vmm_missing);
}

}  // namespace

Choice Choose(const Measured& measured, Backend only) {
  Choice choice;
  const std::string against_vmm = AgainstVmm(measured);
  if (only != Backend::kLibvirt && against_vmm.empty()) {
    choice.backend = Backend::kKvm;
    choice.reason = KvmText(measured.kvm);
    return choice;
  }
  if (only != Backend::kKvm && measured.libvirt_missing.empty()) {
    choice.backend = Backend::kLibvirt;
    choice.emulated = !measured.kvm.usable;
    choice.reason = KvmText(measured.kvm);
    if (measured.kvm.usable && only == Backend::kNone) {
      absl::StrAppend(&choice.reason, ", but ", against_vmm);
    }
    if (choice.emulated) choice.cost = kEmulationCost;
    return choice;
  }
  const std::string against_libvirt =
      absl::StrCat("libvirt is not usable (", measured.libvirt_missing, ")");
  choice.reason = only == Backend::kKvm       ? against_vmm
                  : only == Backend::kLibvirt ? against_libvirt
                                              : absl::StrCat(against_vmm, ", ", against_libvirt);
  choice.testbed = measured.testbed && only != Backend::kLibvirt && measured.vmm_missing.empty();
  if (choice.testbed) choice.cost = kTestbedCost;
  return choice;
}

const char* BackendName(Backend backend) {
  switch (backend) {
    case Backend::kKvm:
      return "kvm";
    case Backend::kLibvirt:
      return "libvirt";
    case Backend::kNone:
      break;
  }
  return "none";
}

std::string AccelName(const Choice& choice) {
  if (choice.backend != Backend::kLibvirt) return "";
  return choice.emulated ? "tcg" : "kvm";
}

std::string Summary(const Choice& choice) {
  switch (choice.backend) {
    case Backend::kKvm:
      return "kvm: hearth-vmm, on this machine's KVM";
    case Backend::kLibvirt:
      if (!choice.emulated) return "libvirt: QEMU, on this machine's KVM";
      return "libvirt: QEMU emulates the processor, so " + choice.cost;
    case Backend::kNone:
      break;
  }
  if (!choice.testbed) return "none: microVMs cannot run here";
  return "none: microVMs run only in an emulated machine (tests/testbed), " + choice.cost;
}

std::vector<std::string> StartCommands(const Choice& choice) {
  switch (choice.backend) {
    case Backend::kKvm:
      return {"hearth-launcher --vmm=PATH --listen=SOCKET --allow-uid=UID  # as root",
              "hearthd --backend=kvm --launcher-socket=SOCKET ...  # as UID"};
    case Backend::kLibvirt:
      return {absl::StrCat("hearth-libvirt --accel=", AccelName(choice),
                           " --listen=SOCKET --allow-uid=UID  # as root"),
              "hearthd --backend=libvirt --launcher-socket=SOCKET ...  # as UID"};
    case Backend::kNone:
      break;
  }
  return {};
}

}  // namespace hearth::cli
