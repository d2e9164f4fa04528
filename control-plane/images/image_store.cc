// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/image_store.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "control-plane/images/digest.h"
#include "control-plane/limits.h"

namespace hearth::control {
namespace {

using Json = nlohmann::json;

constexpr char kAdvice[] = "; build the images again with guest-images/build";

absl::Status Wrong(const absl::Status& status, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", status.message(), kAdvice));
}

absl::StatusOr<std::string> TextIn(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string() || found->get<std::string>().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", key, "\" is missing or no text"));
  }
  return found->get<std::string>();
}

absl::StatusOr<ImageFile> FileIn(const Json& object, const char* key, const std::string& folder,
                                 VerifiedFiles* verified) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", key, "\" is missing"));
  }
  ASSIGN_OR_RETURN(std::string path, TextIn(*found, "path"));
  ASSIGN_OR_RETURN(const std::string digest, TextIn(*found, "digest"));
  if (!IsDigest(digest)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", digest, "\" is not a SHA-256 digest"));
  }
  if (!absl::StartsWith(path, "/")) path = absl::StrCat(folder, "/", path);
  RETURN_IF_ERROR(verified->Verify(path, digest));
  return ImageFile{path, digest};
}

absl::StatusOr<RuntimeEntry> RuntimeIn(const std::string& name, const Json& object,
                                       const std::string& folder, VerifiedFiles* verified) {
  RuntimeEntry entry;
  entry.description.name = name;
  ASSIGN_OR_RETURN(entry.description.image, FileIn(object, "image", folder, verified));
  const auto found = object.find("manifest");
  if (found == object.end() || !found->is_object()) {
    return absl::InvalidArgumentError("\"manifest\" is missing");
  }
  const Json& manifest = *found;
  entry.resource.set_name(absl::StrCat("runtimes/", name));
  entry.resource.set_image_digest(entry.description.image.digest);
  try {
    entry.resource.set_description(manifest.value("description", ""));
    entry.resource.set_handler_required(manifest.value("handlerRequired", false));
    entry.description.arguments = manifest.value("argv", std::vector<std::string>());
    entry.description.environment = manifest.value("env", std::map<std::string, std::string>());
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
  // The manifest's argv is what speaks the Runtime API; a stdio function brings its own command.
  if (!entry.description.arguments.empty()) entry.resource.add_interfaces("runtime_api");
  entry.resource.add_interfaces("stdio");
  return entry;
}

absl::StatusOr<std::shared_ptr<const ImageSet>> Read(const std::string& folder,
                                                     VerifiedFiles* verified) {
  const std::string path = absl::StrCat(folder, "/manifest.json");
  std::ifstream file(path);
  if (!file) {
    return absl::FailedPreconditionError(
        absl::StrCat("no image store at ", folder, ": cannot open ", path, kAdvice));
  }
  std::string text(limits::kMaxManifestBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > limits::kMaxManifestBytes) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is too long", kAdvice));
  }
  const Json manifest = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!manifest.is_object()) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a JSON object", kAdvice));
  }
  auto set = std::make_shared<ImageSet>();
  for (const auto& [key, target] :
       std::map<const char*, ImageFile*>{{"kernel", &set->kernel}, {"agent", &set->agent}}) {
    auto image = FileIn(manifest, key, folder, verified);
    if (!image.ok()) return Wrong(image.status(), absl::StrCat(path, ", ", key));
    *target = *std::move(image);
  }
  const auto runtimes = manifest.find("runtimes");
  if (runtimes == manifest.end() || !runtimes->is_object() || runtimes->empty()) {
    return absl::FailedPreconditionError(absl::StrCat(path, " names no runtimes", kAdvice));
  }
  for (const auto& [name, object] : runtimes->items()) {
    auto entry = RuntimeIn(name, object, folder, verified);
    if (!entry.ok()) return Wrong(entry.status(), absl::StrCat(path, ", runtime ", name));
    set->runtimes.emplace(name, *std::move(entry));
  }
  return std::shared_ptr<const ImageSet>(std::move(set));
}

bool IsSame(const ImageFile& a, const ImageFile& b) { return a.digest == b.digest; }

bool IsSame(const RuntimeEntry& a, const RuntimeEntry& b) {
  return IsSame(a.description.image, b.description.image) &&
         a.description.arguments == b.description.arguments &&
         a.description.environment == b.description.environment &&
         a.resource.SerializeAsString() == b.resource.SerializeAsString();
}

bool IsSame(const ImageSet& a, const ImageSet& b) {
  return IsSame(a.kernel, b.kernel) && IsSame(a.agent, b.agent) &&
         std::equal(a.runtimes.begin(), a.runtimes.end(), b.runtimes.begin(), b.runtimes.end(),
                    [](const auto& x, const auto& y) {
                      return x.first == y.first && IsSame(x.second, y.second);
                    });
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageStore>> ImageStore::Load(const std::string& folder,
                                                             VerifiedFiles* verified) {
  std::unique_ptr<ImageStore> store(new ImageStore(folder, verified));
  RETURN_IF_ERROR(store->Reload().status());
  return store;
}

absl::StatusOr<bool> ImageStore::Reload() {
  ASSIGN_OR_RETURN(std::shared_ptr<const ImageSet> read, Read(folder_, verified_));
  absl::MutexLock lock(&mutex_);
  const bool same = current_ && IsSame(*current_, *read);
  if (!same) current_ = std::move(read);
  return !same;
}

std::shared_ptr<const ImageSet> ImageStore::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

std::shared_ptr<const RuntimeEntry> ImageStore::FindRuntime(const std::string& name) const {
  const std::shared_ptr<const ImageSet> set = current();
  const auto found = set->runtimes.find(name);
  if (found == set->runtimes.end()) return nullptr;
  return std::shared_ptr<const RuntimeEntry>(set, &found->second);
}

}  // namespace hearth::control
