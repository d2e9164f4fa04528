// SPDX-License-Identifier: Apache-2.0
#include "bench/backends.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "hearth/launcher/v1/launcher.pb.h"
#include "wire/fd_socket.h"
#include "wire/limits.h"

namespace hearth::bench {
namespace {

ModeResults Starts(const std::vector<double>& replies, double cpu) {
  ModeResults results;
  for (const double reply : replies) {
    results.samples.push_back({{"reply_ms", reply}, {"vmm_cpu_ms", cpu}});
  }
  return results;
}

BackendsOptions HashOnBoth() {
  BackendsOptions options;
  options.starts.functions.push_back({"hash", {}, {}});
  options.starts.modes = {Mode::kColdBoot, Mode::kRestored, Mode::kWaiting, Mode::kWarm};
  return options;
}

// What RunBackends would return for it.
std::vector<BackendResults> ResultsOf(const BackendsOptions& options) {
  std::vector<BackendResults> results(2);
  for (size_t i = 0; i < 2; ++i) {
    results[i].capabilities = *CapabilitiesOf(options, options.backends[i]);
    auto& modes = results[i].starts.functions["hash"];
    const double times = i == 0 ? 1 : 4;
    modes[Mode::kColdBoot] = Starts({130 * times, 131 * times, 140 * times}, 120);
    modes[Mode::kRestored] = Starts({20 * times, 20 * times, 20 * times}, 10);
    if (i == 0) modes[Mode::kWaiting] = Starts({12, 12, 12}, 11);
    modes[Mode::kWarm] = Starts({4 * times, 4 * times, 5 * times}, 2);
  }
  return results;
}

TEST_CASE("backends: what they can do is what hearthd states") {
  const auto kvm = CapabilitiesOf({}, "kvm");
  const auto libvirt = CapabilitiesOf({}, "libvirt");
  REQUIRE(kvm.ok());
  REQUIRE(libvirt.ok());
  CHECK(kvm->clones);
  CHECK(CanStart(*kvm, Mode::kWaiting));
  CHECK_FALSE(libvirt->clones);
  CHECK_FALSE(CanStart(*libvirt, Mode::kWaiting));
  for (const Mode mode : {Mode::kColdBoot, Mode::kRestored, Mode::kWarm}) {
    CHECK(CanStart(*libvirt, mode));
  }
  CHECK(CapabilitiesOf({}, "xen").status().message() ==
        "there is no backend \"xen\"; there are kvm, libvirt");
}

// A hearth-libvirt on a host with vhost-vsock, as far as one session asks.
void ServeOnce(int listener) {
  wire::FdSocket session(UniqueFd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)));
  launcher::v1::Frame hello;
  hello.mutable_hello()->set_min_version(wire::kLauncherMinVersion);
  hello.mutable_hello()->set_max_version(wire::kLauncherMaxVersion);
  hello.mutable_hello()->set_vsock(true);
  session.BlockingSend(hello.SerializeAsString()).IgnoreError();
  while (true) {
    const absl::StatusOr<wire::FdFrame> received = session.BlockingReceive();
    if (!received.ok()) return;
    launcher::v1::Frame asked, listed;
    if (!asked.ParseFromString(received->payload) || !asked.has_list()) continue;
    listed.mutable_listed()->set_request(asked.list().request());
    session.BlockingSend(listed.SerializeAsString()).IgnoreError();
  }
}

TEST_CASE("backends: whether libvirt's agents are reached over vsock is asked of hearth-libvirt") {
  BackendsOptions options;
  options.libvirt_socket = "/tmp/hearth-bench-" + std::to_string(getpid());
  CHECK_FALSE(CapabilitiesOf(options, "libvirt").ok());
  const UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  options.libvirt_socket.copy(address.sun_path, sizeof(address.sun_path) - 1);
  REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(listen(listener.get(), 1) == 0);
  std::thread server(ServeOnce, listener.get());
  const auto asked = CapabilitiesOf(options, "libvirt");
  server.join();
  unlink(options.libvirt_socket.c_str());
  REQUIRE(asked.ok());
  CHECK(asked->vsock);
  CHECK_FALSE(asked->clones);
  CHECK_FALSE(CapabilitiesOf({}, "libvirt")->vsock);
}

TEST_CASE("backends: a backend that there is not is refused before anything is started") {
  BackendsOptions options = HashOnBoth();
  options.backends = {"kvm", "xen"};
  options.starts.prepare = "/nonexistent/must-not-be-run";
  const auto results = RunBackends(options, [](const std::string&) { FAIL("it began"); });
  CHECK(absl::IsInvalidArgument(results.status()));
}

TEST_CASE("backends: the program that prepares is told the backend, and its failure ends the run") {
  BackendsOptions options = HashOnBoth();
  options.starts.prepare = "/bin/false";
  const auto results = RunBackends(options, [](const std::string&) {});
  CHECK(absl::StrContains(results.status().message(), "/bin/false cold-boot failed"));
}

TEST_CASE("backends: medians, starts and ratios stand in one table") {
  const BackendsOptions options = HashOnBoth();
  const auto results = ResultsOf(options);
  const auto rows = RowsOf(options, results);
  REQUIRE(rows.size() == 4);
  CHECK(rows[0].mode == Mode::kColdBoot);
  CHECK(rows[0].reply[0] == 131);
  CHECK(rows[0].reply[1] == 524);
  CHECK(rows[0].cpu[1] == 120);
  CHECK(rows[0].starts == std::vector<size_t>{3, 3});
  CHECK(rows[0].Ratio(1) == 4);
  CHECK(rows[2].mode == Mode::kWaiting);
  CHECK_FALSE(rows[2].reply[1].has_value());
  CHECK_FALSE(rows[2].Ratio(1).has_value());
  CHECK(AllMeasured(rows));
  const std::string text = BackendsText(options, results);
  CHECK(
      absl::StrContains(text, "cold-boot                          131.00     524.00       4.00\n"));
  CHECK(absl::StrContains(text, "  starts, failed ones                3, 0 not capable\n"));
  const nlohmann::json json = BackendsJson(options, results);
  CHECK(json["table"][0]["backends"]["libvirt"]["ratio"] == 4);
  CHECK(json["table"][2]["backends"]["libvirt"]["replyP50"].is_null());
  CHECK(json["table"][2]["backends"]["libvirt"]["possible"] == false);
  CHECK(json["backends"]["libvirt"]["capabilities"]["clones"] == false);
  CHECK(json["backends"]["kvm"]["functions"]["hash"]["starts"]["warm"]["samples"].size() == 3);
}

TEST_CASE("backends: a start that failed, or has no figure, is told and is not all measured") {
  const BackendsOptions options = HashOnBoth();
  auto results = ResultsOf(options);
  results[1].starts.functions["hash"][Mode::kRestored] = ModeResults();
  CHECK_FALSE(AllMeasured(RowsOf(options, results)));
  results = ResultsOf(options);
  results[1].starts.functions["hash"][Mode::kWarm].failures.push_back("the start was booted");
  CHECK_FALSE(AllMeasured(RowsOf(options, results)));
  const std::string text = BackendsText(options, results);
  CHECK(absl::StrContains(text, "libvirt, hash, warm:\n           the start was booted\n"));
  CHECK_FALSE(AllMeasured({}));
}

}  // namespace
}  // namespace hearth::bench
