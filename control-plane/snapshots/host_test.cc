// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/host.h"

#include <catch2/catch.hpp>
#include <functional>

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

constexpr char kCpuInfo[] =
    "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n"
    "model name\t: Intel(R) Xeon(R) CPU\nstepping\t: 7\nmicrocode\t: 0x5003604\n"
    "flags\t\t: sse avx fpu avx\n\nprocessor\t: 1\nvendor_id\t: Other\n";

pb::Host TestHost() { return *HostDescription("0.1.0", kCpuInfo, "6.1.0-1"); }

pb::Header TestHeader() {
  pb::Header header;
  header.set_uid("018f0000-0000-7000-8000-000000000000");
  *header.mutable_host() = TestHost();
  header.mutable_images()->set_kernel("sha256:k");
  header.mutable_images()->set_agent("sha256:a");
  header.mutable_images()->set_runtime("sha256:r");
  header.mutable_images()->set_code("sha256:c");
  return header;
}

}  // namespace

TEST_CASE("host: cpuinfo's first processor is described, its features sorted") {
  const pb::Host host = TestHost();
  CHECK(host.cpu_vendor() == "GenuineIntel");
  CHECK(host.cpu_model() == "Intel(R) Xeon(R) CPU");
  CHECK(host.cpu_family() == 6);
  CHECK(host.cpu_model_number() == 85);
  CHECK(host.cpu_stepping() == 7);
  CHECK(host.microcode() == "0x5003604");
  CHECK(host.kernel_release() == "6.1.0-1");
  REQUIRE(host.cpu_features_size() == 3);
  CHECK(host.cpu_features(0) == "avx");
  CHECK(host.cpu_features(1) == "fpu");
  CHECK_FALSE(HostDescription("", "", "").ok());
  CHECK_FALSE(HostDescription("", "vendor_id : x\n", "").ok());
}

TEST_CASE("host: this machine can be described and a snapshot of its own fits it") {
  const auto host = HostDescription("0.1.0");
  INFO(host.status());
  REQUIRE(host.ok());
  CHECK_FALSE(host->kernel_release().empty());
  pb::Header header;
  *header.mutable_host() = *host;
  CHECK(CheckFits(header, *host, pb::Images()).ok());
}

TEST_CASE("host: what does not fit is named, all of it") {
  const pb::Header header = TestHeader();
  CHECK(CheckFits(header, TestHost(), header.images()).ok());
  const auto refused = [&](const std::function<void(pb::Host*, pb::Images*)>& change,
                           const std::string& words) {
    pb::Host host = TestHost();
    pb::Images images = header.images();
    change(&host, &images);
    const absl::Status status = CheckFits(header, host, images);
    INFO(status);
    CHECK(absl::IsFailedPrecondition(status));
    CHECK(status.message().find(words) != absl::string_view::npos);
    CHECK(status.message().find(header.uid()) != absl::string_view::npos);
  };
  refused([](auto* host, auto*) { host->set_cpu_vendor("AuthenticAMD"); },
          "CPU vendor AuthenticAMD here, GenuineIntel in the snapshot");
  refused([](auto* host, auto*) { host->set_cpu_model("other"); }, "CPU model other here");
  refused([](auto* host, auto*) { host->set_cpu_family(7); }, "CPU family 7 here, 6 in");
  refused([](auto* host, auto*) { host->set_cpu_model_number(86); }, "CPU model number 86 here");
  refused([](auto* host, auto*) { host->set_cpu_stepping(8); }, "CPU stepping 8 here");
  refused([](auto* host, auto*) { host->clear_microcode(); },
          "microcode (none) here, 0x5003604 in the snapshot");
  refused([](auto* host, auto*) { host->mutable_cpu_features()->RemoveLast(); },
          "CPU features missing here: sse");
  refused([](auto* host, auto*) { host->set_vmm_version("0.2.0"); },
          "VMM version 0.2.0 here, 0.1.0 in the snapshot");
  refused([](auto*, auto* images) { images->set_kernel("sha256:x"); },
          "kernel image sha256:x here, sha256:k in the snapshot");
  refused([](auto*, auto* images) { images->set_agent("sha256:x"); }, "agent image sha256:x");
  refused([](auto*, auto* images) { images->set_runtime("sha256:x"); }, "runtime image sha256:x");
  refused([](auto*, auto* images) { images->set_code("sha256:x"); }, "code image sha256:x");
  refused(
      [](auto* host, auto* images) {
        host->set_microcode("0x1");
        images->set_code("sha256:x");
      },
      "microcode 0x1 here, 0x5003604 in the snapshot; code image sha256:x here");
}

TEST_CASE("host: more features and another kernel fit") {
  const pb::Header header = TestHeader();
  pb::Host host = TestHost();
  host.add_cpu_features("aes");
  host.set_kernel_release("6.12");
  CHECK(CheckFits(header, host, header.images()).ok());
}

}  // namespace hearth::control
