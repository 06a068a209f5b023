plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.compose)
}

android {
    namespace = "dev.adabet.app"
    compileSdk = 36
    defaultConfig {
        applicationId = "dev.adabet.app"
        minSdk = 29 // the first that tells how hot the device is
        targetSdk = 36
        versionCode = 1
        versionName = "1.0.0"
    }
    buildFeatures {
        compose = true
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    androidResources {
        noCompress += listOf("onnx", "bin") // they hardly get smaller, and are copied out at once
    }
}

dependencies {
    implementation(project(":adabet"))
    implementation(platform(libs.compose.bom))
    implementation(libs.compose.material3)
    implementation(libs.activity)
    implementation(libs.core)
    implementation(libs.lifecycle)
}
