// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor/choice.h"

#include <catch2/catch.hpp>

namespace hearth::cli {
namespace {

const KvmVerdict kFast{true, "kernel mode runs at 2200 million instructions a second", ""};
const KvmVerdict kAbsent{false, "there is no /dev/kvm", "Load it."};
constexpr char kNoVmm[] = "hearth-vmm is missing";
constexpr char kNoLibvirt[] = "hearth-libvirt is missing";

TEST_CASE("choice: usable KVM comes first, and costs nothing") {
  const Choice choice = Choose({kFast, "", "", true});
  CHECK(choice.backend == Backend::kKvm);
  CHECK(choice.reason == "KVM is usable (kernel mode runs at 2200 million instructions a second)");
  CHECK(choice.cost.empty());
  CHECK_FALSE(choice.testbed);
  CHECK(AccelName(choice).empty());
  CHECK(Summary(choice).find("kvm: hearth-vmm") == 0);
  CHECK(StartCommands(choice).back().find("--backend=kvm ") != std::string::npos);
  // Whether libvirt could serve does not matter.
  CHECK(Choose({kFast, "", kNoLibvirt, false}).backend == Backend::kKvm);
}

TEST_CASE("choice: libvirt with KVM comes second, where hearth-vmm cannot be had") {
  const Choice choice = Choose({kFast, kNoVmm, "", true});
  CHECK(choice.backend == Backend::kLibvirt);
  CHECK_FALSE(choice.emulated);
  CHECK(choice.reason.find("KVM is usable (") == 0);
  CHECK(choice.reason.find(", but hearth-vmm is missing") != std::string::npos);
  CHECK(choice.cost.empty());
  CHECK(AccelName(choice) == "kvm");
  CHECK(Summary(choice) == "libvirt: QEMU, on this machine's KVM");
  CHECK(StartCommands(choice).front().find("hearth-libvirt --accel=kvm ") == 0);
}

TEST_CASE("choice: libvirt with TCG comes third, and says what it costs") {
  const Choice choice = Choose({kAbsent, "", "", true});
  CHECK(choice.backend == Backend::kLibvirt);
  CHECK(choice.emulated);
  CHECK(choice.reason == "KVM is not usable (there is no /dev/kvm)");
  CHECK(choice.cost.find("slower") != std::string::npos);
  CHECK(AccelName(choice) == "tcg");
  CHECK(Summary(choice) == "libvirt: QEMU emulates the processor, so " + choice.cost);
  CHECK(StartCommands(choice).front().find("hearth-libvirt --accel=tcg ") == 0);
  CHECK(StartCommands(choice).back().find("--backend=libvirt ") != std::string::npos);
  // hearth-vmm would be of no use.
  CHECK(AccelName(Choose({kAbsent, kNoVmm, "", false})) == "tcg");
}

TEST_CASE("choice: where neither serves, what stands against each is told") {
  const Choice testbed = Choose({kAbsent, "", kNoLibvirt, true});
  CHECK(testbed.backend == Backend::kNone);
  CHECK(testbed.testbed);
  CHECK(testbed.reason ==
        "KVM is not usable (there is no /dev/kvm), libvirt is not usable (hearth-libvirt is "
        "missing)");
  CHECK(Summary(testbed).find("none: microVMs run only in an emulated machine") == 0);
  CHECK(StartCommands(testbed).empty());
  const Choice nothing = Choose({kAbsent, "", kNoLibvirt, false});
  CHECK(nothing.backend == Backend::kNone);
  CHECK_FALSE(nothing.testbed);
  CHECK(nothing.cost.empty());
  CHECK(Summary(nothing) == "none: microVMs cannot run here");
  // The testbed needs hearth-vmm, too.
  const Choice no_programs = Choose({kAbsent, kNoVmm, kNoLibvirt, true});
  CHECK_FALSE(no_programs.testbed);
  CHECK(no_programs.reason.find("), hearth-vmm is missing, libvirt") != std::string::npos);
  CHECK(Choose({kFast, kNoVmm, kNoLibvirt, false}).reason.find("hearth-vmm is missing, ") == 0);
}

TEST_CASE("choice: one that is named is judged by itself") {
  CHECK(Choose({kFast, "", "", true}, Backend::kKvm).backend == Backend::kKvm);
  const Choice no_kvm = Choose({kAbsent, "", "", true}, Backend::kKvm);
  CHECK(no_kvm.backend == Backend::kNone);
  CHECK(no_kvm.testbed);
  CHECK(no_kvm.reason == "KVM is not usable (there is no /dev/kvm)");
  CHECK(Choose({kFast, kNoVmm, "", true}, Backend::kKvm).reason == kNoVmm);

  const Choice with_kvm = Choose({kFast, kNoVmm, "", true}, Backend::kLibvirt);
  CHECK(with_kvm.backend == Backend::kLibvirt);
  CHECK(AccelName(with_kvm) == "kvm");
  CHECK(with_kvm.reason.find("hearth-vmm") == std::string::npos);
  CHECK(AccelName(Choose({kAbsent, "", "", true}, Backend::kLibvirt)) == "tcg");
  const Choice no_libvirt = Choose({kFast, "", kNoLibvirt, true}, Backend::kLibvirt);
  CHECK(no_libvirt.backend == Backend::kNone);
  CHECK_FALSE(no_libvirt.testbed);
  CHECK(no_libvirt.reason == "libvirt is not usable (hearth-libvirt is missing)");
}

TEST_CASE("choice: names are those of the flags") {
  CHECK(std::string(BackendName(Backend::kKvm)) == "kvm");
  CHECK(std::string(BackendName(Backend::kLibvirt)) == "libvirt");
  CHECK(std::string(BackendName(Backend::kNone)) == "none");
}

}  // namespace
}  // namespace hearth::cli
