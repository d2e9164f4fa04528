// SPDX-License-Identifier: Apache-2.0
#include "control-plane/routing/router.h"

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "control-plane/api/errors.h"
#include "control-plane/images/digest.h"
#include "control-plane/store/sqlite_stores.h"

namespace hearth::control {
namespace {

constexpr char kFunction[] = "tenants/t/functions/f";

// One function with a version that is ready (1), one that failed (2), and an alias `live` to 1.
struct World {
  World() {
    char path[] = "/tmp/hearth-routing-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    folder = path;
    verified = std::make_unique<VerifiedFiles>(folder + "/verified");
    metadata = *OpenSqliteMetadata(folder + "/m.db");
    disks = *CodeDisks::Open(folder + "/code", verified.get());
    for (const char* name : {"kernel", "agent", "py"}) Write(name, name);
    const auto file = [](const std::string& name) {
      return R"({"path": ")" + name + R"(", "digest": ")" + DigestOf(name) + R"("})";
    };
    Write("manifest.json", R"({"kernel": )" + file("kernel") + R"(, "agent": )" + file("agent") +
                               R"(, "runtimes": {"python3.11": {"image": )" + file("py") +
                               R"(, "manifest": {"argv": ["py"]}}}})");
    images = *ImageStore::Load(folder, verified.get());
    Write("code/" + DigestHex(DigestOf("disk")), "disk");
    router = std::make_unique<Router>(metadata.get(), images.get(), disks.get());
    Change([](MetadataTransaction& t) {
      CHECK(t.Insert(Kind::kTenant, {"tenants/t", "", "t", "", ""}).ok());
      CHECK(t.Insert(Kind::kFunction, {kFunction, "tenants/t", "f", "", ""}).ok());
      Put(t, "1", hearth::v1::Version::READY);
      Put(t, "2", hearth::v1::Version::FAILED);
      CHECK(t.Insert(Kind::kAlias, {std::string(kFunction) + "/aliases/live", kFunction, "live",
                                    std::string(kFunction) + "/versions/1", ""})
                .ok());
      CHECK(
          t.Insert(Kind::kFunction, {"tenants/t/functions/new", "tenants/t", "new", "", ""}).ok());
    });
  }
  ~World() { std::filesystem::remove_all(folder); }

  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(folder + "/" + name) << content;
  }
  static void Put(MetadataTransaction& t, const std::string& number,
                  hearth::v1::Version::State state) {
    hearth::v1::Version version;
    version.set_name(std::string(kFunction) + "/versions/" + number);
    version.set_state(state);
    version.set_code_digest(DigestOf("disk"));
    version.mutable_spec()->set_runtime("python3.11");
    version.mutable_spec()->mutable_interface()->mutable_runtime_api()->set_handler("a.b");
    CHECK(t.Insert(Kind::kVersion,
                   {version.name(), kFunction, number, "", version.SerializeAsString()})
              .ok());
  }
  template <class F>
  void Change(F f) const {
    CHECK(metadata
              ->Write([&](MetadataTransaction& t) {
                f(t);
                return absl::OkStatus();
              })
              .ok());
  }

  std::string folder;
  std::unique_ptr<VerifiedFiles> verified;
  std::unique_ptr<MetadataStore> metadata;
  std::unique_ptr<CodeDisks> disks;
  std::unique_ptr<ImageStore> images;
  std::unique_ptr<Router> router;
};

}  // namespace

TEST_CASE("routing: a function, an alias and a version lead to the same version") {
  World world;
  const std::string f = kFunction;
  for (const std::string& name : {f, f + "/aliases/live", f + "/versions/1", f}) {
    const auto route = world.router->Resolve(name);
    INFO(route.status());
    REQUIRE(route.ok());
    CHECK(route->function == f);
    CHECK(route->version->name == f + "/versions/1");
    CHECK(route->version->memory_mib == 128);
    CHECK(route->version->timeout == absl::Seconds(30));
    CHECK(route->version->runtime.handler == "a.b");
  }
}

TEST_CASE("routing: what leads nowhere says why") {
  World world;
  const std::string f = kFunction;
  const auto reason = [&](const std::string& name) {
    return ReasonOf(world.router->Resolve(name).status());
  };
  CHECK(reason("tenants/t/functions/none") == "RESOURCE_NOT_FOUND");
  CHECK(reason("tenants/t/functions/new") == "NO_LIVE_VERSION");
  CHECK(reason(f + "/aliases/none") == "RESOURCE_NOT_FOUND");
  CHECK(reason(f + "/versions/9") == "RESOURCE_NOT_FOUND");
  CHECK(reason(f + "/versions/2") == "VERSION_NOT_READY");
  CHECK(reason("nonsense") == "INVALID_FIELD");
  world.Write("code/" + DigestHex(DigestOf("disk")), "damaged");
  CHECK(reason(f) == "CODE_DISK_DAMAGED");
}

TEST_CASE("routing: a moved alias is seen once invalidated") {
  World world;
  const std::string f = kFunction;
  CHECK(world.router->Resolve(f).ok());
  world.Change([&](MetadataTransaction& t) {
    World::Put(t, "3", hearth::v1::Version::READY);
    CHECK(t.Update(Kind::kAlias, {f + "/aliases/live", f, "live", f + "/versions/3", ""}).ok());
  });
  CHECK(world.router->Resolve(f)->version->name == f + "/versions/1");
  world.router->Invalidate(f);
  CHECK(world.router->Resolve(f)->version->name == f + "/versions/3");
}

}  // namespace hearth::control
