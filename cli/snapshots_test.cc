// SPDX-License-Identifier: Apache-2.0
// `hearth snapshots` and `hearth images` against a hearthd that a test plays.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/app.h"
#include "cli/failure.h"
#include "cli/testing/fake_hearthd.h"

namespace hearth::cli {
namespace {

using nlohmann::json;

constexpr char kName[] = "tenants/default/functions/f/versions/3/snapshots/0193-9";

struct Ended {
  int code = 0;
  std::string out;
  std::string err;
};

struct Stage {
  Stage() {
    hearthd.snapshot.set_name(kName);
    hearthd.snapshot.set_version("tenants/default/functions/f/versions/3");
    hearthd.snapshot.set_state(hearth::v1::Snapshot::OUTDATED);
    hearthd.snapshot.set_detail("made from another runtime \033[2J");
    hearthd.snapshot.set_memory_mib(256);
    hearthd.snapshot.mutable_cpu_duration()->set_seconds(3);
    hearthd.snapshot.set_working_set_pages(1000);
    hearthd.snapshot.set_working_set_recordings(4);
    hearthd.snapshot.set_resident(true);
    hearthd.snapshot.set_restores(17);
  }
  Ended Run(std::vector<std::string> arguments) {
    std::ostringstream out, err;
    arguments.insert(arguments.end(), {"--socket", folder / "socket"});
    Ended ended;
    ended.code = RunApp(arguments, Terminal{out, err}, &interrupt);
    ended.out = out.str();
    ended.err = err.str();
    return ended;
  }
  TemporaryFolder folder;
  FakeHearthd hearthd{folder / "socket"};
  Interrupt interrupt;
};

bool Has(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

TEST_CASE("snapshots list: of all, of a function, of a version") {
  Stage stage;
  const Ended ended = stage.Run({"snapshots", "list"});
  CHECK(ended.code == kExitOk);
  CHECK(Has(ended.out, "OUTDATED"));
  CHECK(Has(ended.out, "0193-9"));
  CHECK(Has(ended.out, "4.1 MB"));
  stage.Run({"snapshots", "list", "f"});
  stage.Run({"snapshots", "list", "f:2"});
  stage.Run({"snapshots", "list", "f:live"});
  CHECK(stage.hearthd.calls ==
        std::vector<std::string>{"ListSnapshots tenants/default/functions/-/versions/-",
                                 "ListSnapshots tenants/default/functions/f/versions/-",
                                 "ListSnapshots tenants/default/functions/f/versions/2",
                                 "GetAlias tenants/default/functions/f/aliases/live",
                                 "ListSnapshots tenants/default/functions/f/versions/3"});
  CHECK(json::parse(stage.Run({"snapshots", "list", "--json"}).out)["snapshots"][0]["name"] ==
        kName);
  stage.hearthd.snapshot.Clear();
  CHECK(Has(stage.Run({"snapshots", "list"}).err, "There are no snapshots yet"));
}

TEST_CASE("snapshots describe: a function means its live version, a whole name itself") {
  Stage stage;
  const Ended ended = stage.Run({"snapshots", "describe", "f"});
  CHECK(ended.code == kExitOk);
  CHECK(Has(ended.out, "state         OUTDATED, made from another runtime ?[2J\n"));
  CHECK(Has(ended.out, "17 times"));
  CHECK(Has(ended.out, "from 4 recordings"));
  CHECK(Has(ended.out, "CPU of both   3"));
  stage.Run({"snapshots", "describe", kName});
  CHECK(stage.hearthd.calls ==
        std::vector<std::string>{"GetAlias tenants/default/functions/f/aliases/live",
                                 "ListSnapshots tenants/default/functions/f/versions/3",
                                 std::string("GetSnapshot ") + kName});
  stage.hearthd.snapshot.Clear();
  const Ended none = stage.Run({"snapshots", "describe", "f"});
  CHECK(none.code == kExitFailed);
  CHECK(Has(none.err, "has no snapshot: its instances boot"));
}

TEST_CASE("snapshots delete: asks, or takes --yes") {
  Stage stage;
  CHECK(stage.Run({"snapshots", "delete", "f"}).code == kExitUsage);
  const Ended ended = stage.Run({"snapshots", "delete", "f:3", "--yes"});
  CHECK(ended.code == kExitOk);
  CHECK(stage.hearthd.calls.back() == std::string("DeleteSnapshot ") + kName);
}

TEST_CASE("snapshots rebuild: follows the operation, and tells how it failed") {
  Stage stage;
  const Ended ended = stage.Run({"snapshots", "rebuild", "f"});
  CHECK(ended.code == kExitOk);
  CHECK(Has(ended.out, std::string("rebuilt  ") + kName));
  CHECK(stage.hearthd.calls.back() == "RebuildSnapshot tenants/default/functions/f/versions/3");
  stage.hearthd.deploy_error.set_code(9);
  stage.hearthd.deploy_error.set_message("this hearthd makes no snapshots");
  const Ended failed = stage.Run({"snapshots", "rebuild", "f"});
  CHECK(failed.code == kExitFailed);
  CHECK(Has(failed.err, "this hearthd makes no snapshots"));
}

TEST_CASE("images: what there is, and what still runs on older ones") {
  Stage stage;
  auto* image = stage.hearthd.reloaded.add_images();
  image->set_name("images/python3.11");
  image->set_kind(hearth::v1::Image::RUNTIME);
  image->set_digest("sha256:0123456789abcdef");
  image->set_snapshots(3);
  CHECK(Has(stage.Run({"images", "list"}).out, "python3.11  RUNTIME  0123456789ab"));
  CHECK(Has(stage.Run({"images", "outdated"}).err, "Nothing runs on old images"));
  auto* use = stage.hearthd.outdated.add_uses();
  use->set_resource(kName);
  use->set_version("tenants/default/functions/f/versions/3");
  use->set_image("images/python3.11");
  use->set_digest("sha256:fedcba9876543210");
  use->set_current_digest("sha256:0123456789abcdef");
  const Ended outdated = stage.Run({"images", "outdated"});
  CHECK(Has(outdated.out, "snapshot"));
  CHECK(Has(outdated.out, "fedcba987654"));
  CHECK(json::parse(stage.Run({"images", "outdated", "--json"}).out)["uses"].size() == 1);
  stage.hearthd.reloaded.set_changed(true);
  CHECK(Has(stage.Run({"images", "reload"}).err, "hearth images outdated"));
  CHECK(stage.hearthd.calls == std::vector<std::string>{"ReloadImages"});
}

TEST_CASE("invoke --verbose: where the time of a restored start went") {
  Stage stage;
  auto& invocation = stage.hearthd.invocation;
  invocation.set_name("tenants/default/functions/f/invocations/0193-1");
  invocation.set_outcome(hearth::v1::SUCCEEDED);
  invocation.set_start_kind(hearth::v1::RESTORED);
  invocation.mutable_timing()->mutable_restore()->set_nanos(12'000'000);
  invocation.mutable_timing()->mutable_restore_machine()->set_nanos(5'000'000);
  invocation.mutable_timing()->mutable_restore_hooks()->set_nanos(1'000'000);
  const Ended ended = stage.Run({"invoke", "f", "-v"});
  CHECK(Has(ended.err, "restored in 12 ms") + Has(ended.err, "restored in 12.0 ms") > 0);
  CHECK(Has(ended.err, "machine 5.0 ms, of it hooks 1.0 ms"));
}

}  // namespace
}  // namespace hearth::cli
