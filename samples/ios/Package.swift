// swift-tools-version: 5.9
import PackageDescription

// On Apple platforms, ONNX Runtime is a Swift package. On Linux, where the library is tested, it is the system's, such
// as libonnxruntime-dev of Debian 13.
#if os(Linux)
    let runtimePackages: [Package.Dependency] = []
    let runtime: [Target.Dependency] = []
    let linked: [LinkerSetting] = [.linkedLibrary("onnxruntime")]
#else
    let runtimePackages: [Package.Dependency] = [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.17.0")
    ]
    let runtime: [Target.Dependency] = [
        .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")
    ]
    let linked: [LinkerSetting] = []
#endif

let package = Package(
    name: "AdabetOnnx",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "AdabetOnnx", targets: ["AdabetOnnx"]),
        .executable(name: "adabet-device", targets: ["adabet-device"]),
    ],
    dependencies: runtimePackages,
    targets: [
        .target(name: "COnnxRuntime", dependencies: runtime, linkerSettings: linked),
        .target(name: "AdabetOnnx", dependencies: ["COnnxRuntime"]),
        .executableTarget(name: "adabet-device", dependencies: ["AdabetOnnx"]),
    ]
)
