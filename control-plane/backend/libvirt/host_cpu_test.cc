// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/host_cpu.h"

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "control-plane/backend/libvirt/limits.h"

namespace hearth::libvirt {
namespace {

using Names = std::vector<std::string>;

// As hosts with these processors describe theirs.
const NamedCpu kGold6148 = {"gold-6148", R"(<cpu>
  <arch>x86_64</arch>
  <model>Skylake-Server-IBRS</model>
  <vendor>Intel</vendor>
  <microcode version='33582597'/>
  <signature family='6' model='85' stepping='4'/>
  <counter name='tsc' frequency='2400000000' scaling='yes'/>
  <topology sockets='1' dies='1' cores='20' threads='2'/>
  <maxphysaddr mode='emulate' bits='46'/>
  <feature name='ds'/>
  <feature name='ss'/>
  <feature name='ht'/>
  <feature name='vmx'/>
  <feature name='pku'/>
  <feature name='md-clear'/>
  <feature name='ssbd'/>
  <pages unit='KiB' size='4'/>
</cpu>)"};
const NamedCpu kGold6248 = {"gold-6248", R"(<cpu>
  <arch>x86_64</arch>
  <model>Cascadelake-Server</model>
  <vendor>Intel</vendor>
  <microcode version='83899908'/>
  <signature family='6' model='85' stepping='7'/>
  <topology sockets='2' dies='1' cores='20' threads='2'/>
  <feature name='ss'/>
  <feature name='vmx'/>
  <feature name='md-clear'/>
  <feature name='rdctl-no'/>
</cpu>)"};
const NamedCpu kEpyc7763 = {"epyc-7763", R"(<cpu>
  <arch>x86_64</arch>
  <model>EPYC-Milan</model>
  <vendor>AMD</vendor>
  <microcode version='167776725'/>
  <signature family='25' model='1' stepping='1'/>
  <topology sockets='2' dies='1' cores='64' threads='2'/>
  <feature name='ht'/>
  <feature name='vaes'/>
  <feature name='vpclmulqdq'/>
</cpu>)"};
const NamedCpu kEpyc7551 = {"epyc-7551", R"(<cpu>
  <arch>x86_64</arch>
  <model>EPYC-IBPB</model>
  <vendor>AMD</vendor>
  <microcode version='134222445'/>
  <signature family='23' model='1' stepping='2'/>
  <topology sockets='2' dies='1' cores='32' threads='2'/>
  <feature name='ht'/>
</cpu>)"};

void CheckRefused(const std::string& xml, const std::string& why) {
  CAPTURE(why);
  // Beside one that is right: what is wrong is told by its name.
  const auto baseline = BaselineCpu({kGold6148, {"hosts/b", xml}});
  CHECK(absl::IsInvalidArgument(baseline.status()));
  INFO(baseline.status());
  CHECK(absl::StartsWith(baseline.status().message(), "hosts/b: "));
  CHECK(absl::StrContains(baseline.status().message(), why));
  CHECK_FALSE(absl::StrContains(baseline.status().message(), "\n"));
}

TEST_CASE("host cpu: this machine's is described, without a daemon and without QEMU") {
  const auto cpu = DescribeHostCpu();
  if (absl::IsFailedPrecondition(cpu.status())) {
    WARN("SKIPPED: " << cpu.status().message());
    return;
  }
  INFO(cpu.status());
  REQUIRE(cpu.ok());
  CHECK_FALSE(cpu->model.empty());
  CHECK(cpu->fewer.empty());
  CHECK(absl::StartsWith(cpu->xml, "<cpu>"));
  CHECK(absl::EndsWith(cpu->xml, "</cpu>"));
  // It is what a baseline is made of.
  const auto alone = BaselineCpu({{"this machine", cpu->xml}});
  INFO(alone.status());
  REQUIRE(alone.ok());
  CHECK(alone->model == cpu->model);
}

TEST_CASE("host cpu: a processor alone is its own baseline") {
  const auto cpu = BaselineCpu({kGold6148});
  REQUIRE(cpu.ok());
  CHECK(cpu->model == "Skylake-Server-IBRS");
  CHECK(cpu->more == Names{"ds", "ss", "ht", "vmx", "pku", "md-clear", "ssbd"});
  CHECK(cpu->fewer.empty());
}

TEST_CASE("host cpu: two generations have the older one's model and what both add to it") {
  const auto intel = BaselineCpu({kGold6248, kGold6148});
  REQUIRE(intel.ok());
  CHECK(intel->model == "Skylake-Server-IBRS");
  // Cascadelake-Server has ssbd in itself.
  CHECK(intel->more == Names{"ss", "vmx", "md-clear", "ssbd"});
  const auto amd = BaselineCpu({kEpyc7763, kEpyc7551});
  REQUIRE(amd.ok());
  CHECK(amd->model == "EPYC-IBPB");
  CHECK(amd->more == Names{"ht"});
  // libvirt's EPYC-Milan is without it.
  CHECK(amd->fewer == Names{"monitor"});
}

TEST_CASE("host cpu: two vendors have nothing in common") {
  const auto both = BaselineCpu({kGold6148, kEpyc7763});
  CHECK(absl::IsFailedPrecondition(both.status()));
  CHECK(absl::StrContains(both.status().message(), "CPU vendors do not match"));
}

TEST_CASE("host cpu: what libvirt does not know is told with its name") {
  CheckRefused("<cpu><arch>x86_64</arch><model>EPYC</model><vendor>DEC</vendor></cpu>",
               "Unknown CPU vendor DEC");
  CheckRefused("<cpu><arch>x86_64</arch><model>PDP-11</model></cpu>", "Unknown CPU model PDP-11");
  CheckRefused(
      "<cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor><feature name='warp'/></cpu>",
      "Unknown CPU feature warp");
  CheckRefused("<cpu mode='host-passthrough'/>", "only allowed for guest CPU");
}

TEST_CASE("host cpu: what is no description of a processor is refused") {
  CheckRefused("", "0 bytes");
  CheckRefused("processor : 0", "Start tag expected");
  CheckRefused("<cpu><arch>x86_64", "libvirt: ");
  CheckRefused("<domain/>", "does not contain expected 'cpu' element");
  CheckRefused("<!DOCTYPE cpu [<!ENTITY a 'x'>]>" + kGold6148.xml, "no <!DOCTYPE");
  CheckRefused("<cpu>" + std::string(1, '\0') + "</cpu>", "no zero bytes");
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "<cpu>";
  CheckRefused(deep, "libvirt: ");
}

TEST_CASE("host cpu: sizes and numbers have limits, and their edges are allowed") {
  NamedCpu large = kGold6148;
  large.xml.resize(kMaxCpuXmlBytes, ' ');
  CHECK(BaselineCpu({large}).ok());
  CheckRefused(large.xml + " ", "at most 65536");
  CHECK(BaselineCpu(std::vector<NamedCpu>(kMaxComparedCpus, kGold6148)).ok());
  CHECK(absl::IsInvalidArgument(
      BaselineCpu(std::vector<NamedCpu>(kMaxComparedCpus + 1, kGold6148)).status()));
  CHECK(absl::IsInvalidArgument(BaselineCpu({}).status()));
}

}  // namespace
}  // namespace hearth::libvirt
